// What the checked-in commands share. Plain and not built, so that `npm ci` finds and links them; and old enough in its ways to tell an old Node
// what it wants.
import { existsSync } from 'node:fs';

/**
 * Runs a built entry, or says what is missing for it.
 * @param {string} command its name, for the advice
 * @param {URL} main the built entry file
 */
export async function launch(command, main) {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major < 22 || (major === 22 && minor < 15)) {
    process.stderr.write(`error: Reefkeeper runs on Node 24; this is ${process.version}. Use \`npx ${command}\` or an npm script inside the project (they bring their own Node), or install Node 24.\ncode: node.too_old\n`);
    process.exitCode = 2;
  } else if (!existsSync(main)) {
    process.stderr.write('error: Reefkeeper is not built yet. Run `npm run build` first.\ncode: not_built\n');
    process.exitCode = 2;
  } else {
    await import(main.href);
  }
}
