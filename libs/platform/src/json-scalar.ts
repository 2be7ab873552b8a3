import { GraphQLScalarType, Kind, type ValueNode } from 'graphql';

/** Any JSON value, for columns whose shape belongs to the client. */
export const JsonScalar = new GraphQLScalarType({
  name: 'JSON',
  description: 'Any JSON value.',
  serialize: (value) => value,
  parseValue: (value) => value,
  parseLiteral: literal,
});

function literal(node: ValueNode, variables?: Record<string, unknown> | null): unknown {
  switch (node.kind) {
    case Kind.VARIABLE: return variables?.[node.name.value];
    case Kind.STRING: case Kind.BOOLEAN: case Kind.ENUM: return node.value;
    case Kind.INT: case Kind.FLOAT: return Number(node.value);
    case Kind.LIST: return node.values.map((one) => literal(one, variables));
    case Kind.OBJECT: return Object.fromEntries(node.fields.map((field) => [field.name.value, literal(field.value, variables)]));
    default: return null;
  }
}
