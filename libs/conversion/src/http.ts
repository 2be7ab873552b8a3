export * from './buckets.http.ts';
export * from './jobs.graphql.ts';
export * from './jobs.http.ts';
