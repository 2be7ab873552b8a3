export * from './message.ts';
export * from './messages.ts';
export * from './moments.ts';
export * from './sketch.ts';
