export * from './message.ts';
export * from './messages.ts';
export * from './sketch.ts';
