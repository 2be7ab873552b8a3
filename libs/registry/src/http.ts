export * from './registry.graphql.ts';
export * from './registry.http.ts';
export * from './uploads.http.ts';
