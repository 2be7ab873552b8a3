export * from './agent-releases.http.ts';
export * from './registry.graphql.ts';
export * from './registry.http.ts';
export * from './retention.http.ts';
export * from './uploads.http.ts';
