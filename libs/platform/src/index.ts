export * from './clock.ts';
export * from './config.ts';
export * from './database.ts';
export * from './errors.ts';
export * from './events.ts';
export * from './logger.ts';
export * from './objects.ts';
export * from './queue.ts';
