export * from './manifest.ts';
export * from './envelope.ts';
export * from './signing-key.ts';
export * from './golden.ts';
export * from './delta.ts';
export * from './diff.ts';
