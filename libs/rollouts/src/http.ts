export * from './freezes.graphql.ts';
export * from './freezes.http.ts';
export * from './overview.http.ts';
export * from './rollouts.graphql.ts';
export * from './rollouts.http.ts';
export * from './series.http.ts';
export * from './verbs.graphql.ts';
