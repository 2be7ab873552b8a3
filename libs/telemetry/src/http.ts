export * from './telemetry.graphql.ts';
export * from './telemetry.http.ts';
