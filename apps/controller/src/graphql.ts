import type { ApolloDriverConfig } from '@nestjs/apollo';
import { ReefError } from '@reefkeeper/platform';
import { fromHttp, type Caller } from '@reefkeeper/platform/http';
import { GraphQLError, Kind, parse, specifiedRules, validate, type DocumentNode, type GraphQLFormattedError, type ParseOptions, type Source, type SelectionSetNode, type ValidationContext, type ValidationRule } from 'graphql';
import type { Context, ServerOptions } from 'graphql-ws';
import type { Authentication } from './authentication.ts';

/** Deeper than the introspection query of the usual tools (13 levels), far below what hurts. */
const maxDepth = 16;
const maxFields = 1_000;
const maxTokens = 5_000;

type Asked = { headers: Record<string, string | undefined> } | Context<{ authorization?: unknown }>;

/** GraphQL over HTTP and over websockets, behind the same tokens and with the same error codes as REST. */
export function graphqlOptions(authentication: Authentication): Omit<ApolloDriverConfig, 'driver'> {
  const callerOf = async (asked: Asked): Promise<Caller> => authentication.require('connectionParams' in asked ? asked.connectionParams?.authorization : 'headers' in asked ? asked.headers.authorization : undefined);
  const sockets: Partial<ServerOptions<{ authorization?: unknown }>> & { path: string } = {
    path: '/graphql', connectionInitWaitTimeout: 10_000,
    // False closes the socket with 4403; a client that knows its token is bad must not try for ever.
    onConnect: (context) => callerOf(context).then(() => true, (error: unknown) => {
      if (error instanceof ReefError && error.kind === 'unauthenticated') return false;
      throw error;
    }),
    validate: (schema, document, rules) => validate(schema, document, [...(rules ?? specifiedRules), limitSize]),
    // graphql-ws has no formatError of its own.
    onError: (_context, _id, _payload, errors) => errors.map((error) => formatted(error)),
    onNext: (_context, _id, _payload, _args, result) => (result.errors ? { ...result, errors: result.errors.map((error) => formatted(error)) as unknown as GraphQLError[] } : undefined),
  };
  (sockets as { parse?: (source: string | Source, options?: ParseOptions) => DocumentNode }).parse = (source, options) => parse(source, { ...options, maxTokens });
  return {
    path: '/graphql', autoSchemaFile: true, sortSchema: true, introspection: true, graphiql: false,
    subscriptions: { 'graphql-ws': sockets as never },
    parseOptions: { maxTokens }, validationRules: [limitSize],
    context: async (asked: Asked) => {
      try {
        return { req: { actor: await callerOf(asked) } };
      } catch (thrown) {
        const error = fromHttp(thrown);
        throw new GraphQLError(error.message, { originalError: error, extensions: { http: { status: error.httpStatus } } });
      }
    },
    formatError: (shape, thrown) => (thrown instanceof GraphQLError ? formatted(thrown, shape) : formatted(new GraphQLError((thrown as Error).message, { originalError: thrown as Error }), shape)),
  };
}

/** The stable code and kind in `extensions`; the cause of a bug stays in the log. */
function formatted(thrown: GraphQLError | GraphQLFormattedError, shape: GraphQLFormattedError = thrown instanceof GraphQLError ? thrown.toJSON() : thrown): GraphQLFormattedError {
  let original = (thrown as GraphQLError).originalError;
  while (original instanceof GraphQLError) original = original.originalError;
  // Without one it is GraphQL's own: a query that does not parse or fit the schema.
  if (!original) return { ...shape, extensions: { code: shape.extensions?.code ?? 'GRAPHQL_VALIDATION_FAILED' } };
  const error = fromHttp(original);
  const bug = error.kind === 'bug';
  return { ...shape, message: bug ? 'Something broke on our side; the controller log has the cause.' : error.message, extensions: { code: error.code, kind: error.kind, context: bug ? {} : error.detail } };
}

/** Refuses documents that nest too deep or ask for too many fields once their fragments are unfolded. */
export const limitSize: ValidationRule = (context: ValidationContext) => ({
  OperationDefinition(operation) {
    let fields = 0;
    const walk = (set: SelectionSetNode, depth: number, inside: ReadonlySet<string>): boolean => {
      for (const selection of set.selections) {
        if (selection.kind === Kind.FIELD) {
          if (++fields > maxFields || depth > maxDepth) return false;
          if (selection.selectionSet && !walk(selection.selectionSet, depth + 1, inside)) return false;
        } else if (selection.kind === Kind.INLINE_FRAGMENT) {
          if (!walk(selection.selectionSet, depth, inside)) return false;
        } else {
          const name = selection.name.value;
          const fragment = context.getFragment(name);
          // A cycle is refused by a rule of its own; here it must only not run for ever.
          if (fragment && !inside.has(name) && !walk(fragment.selectionSet, depth, new Set([...inside, name]))) return false;
        }
      }
      return true;
    };
    if (!walk(operation.selectionSet, 1, new Set())) context.reportError(new GraphQLError(`The query is too large: at most ${maxDepth} levels and ${maxFields} fields. Ask for less at a time.`, { nodes: operation }));
  },
});
