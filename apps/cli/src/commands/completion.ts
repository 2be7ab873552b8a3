import type { Command } from 'commander';

/** Words for the shell are made from the commands themselves, so they cannot fall behind. */
export function registerCompletion(program: Command): void {
  program.command('completion').description('completion for bash or zsh: source <(reef completion)').action(() => {
    process.stdout.write(completionScript(program));
  });
}

export function completionScript(program: Command): string {
  const cases = pathsOf(program).map(({ path, words }) => `    '${path}') words='${words.join(' ')}' ;;`).join('\n');
  return `# source <(reef completion), in bash or zsh
[ -n "$ZSH_VERSION" ] && autoload -U +X bashcompinit && bashcompinit
_reef() {
  local word path='' words='' i
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=\${COMP_WORDS[i]}
    case "$path $word" in
${pathsOf(program).filter(({ path }) => path).map(({ path }) => `      ' ${path}'|'${path}') path='${path}' ;;`).join('\n')}
    esac
  done
  case "$path" in
${cases}
  esac
  COMPREPLY=($(compgen -W "$words" -- "\${COMP_WORDS[COMP_CWORD]}"))
  [ \${#COMPREPLY[@]} -eq 0 ] && COMPREPLY=($(compgen -f -- "\${COMP_WORDS[COMP_CWORD]}"))
}
complete -F _reef reef
`;
}

/** Every command by its words (\`model push\`), with what may follow. */
function pathsOf(command: Command, before: string[] = []): { path: string; words: string[] }[] {
  const words = [...command.commands.map((one) => one.name()), ...command.options.flatMap(({ long }) => (long ? [long] : [])), '--help'];
  return [{ path: before.join(' '), words }, ...command.commands.flatMap((one) => pathsOf(one, [...before, one.name()]))];
}
