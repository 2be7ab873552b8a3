export * from './jobs.graphql.ts';
export * from './jobs.http.ts';
