export * from './alerts.graphql.ts';
export * from './alerts.http.ts';
export * from './captures.http.ts';
export * from './telemetry.graphql.ts';
export * from './telemetry.http.ts';
