// What the command line needs to run the compiler by itself: no database, no Nest.
export { compile, compilerVersion, findCompiler, type CompilerCommand, type CompileRun } from './compiler.ts';
export { compileOptions, type CompileOptions } from './compile-options.ts';
