import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import { GraphQLSchemaHost } from '@nestjs/graphql';
import { DocumentBuilder, SwaggerModule, type OpenAPIObject } from '@nestjs/swagger';
import { answerSchemas } from './answers.ts';

const problem = {
  type: 'object', required: ['type', 'title', 'status', 'code', 'detail', 'context'],
  description: 'RFC 9457 problem details. Branch on `code`, never on the text.',
  properties: {
    type: { type: 'string', format: 'uri' }, title: { type: 'string' }, status: { type: 'integer' }, code: { type: 'string', example: 'device.unknown' },
    detail: { type: 'string', description: 'For people: what is wrong and what to do' }, context: { type: 'object', additionalProperties: true, description: 'The names and numbers behind it' },
  },
} as const;

const refusals: Record<string, string> = { 400: 'The request is not usable', 401: 'No valid token', 403: 'The token\'s role may not do this', 404: 'No such thing', 409: 'Not in its present state', 413: 'The body is too large', 415: 'The body is of no type that is taken here' };

interface Operation { operationId: string; parameters?: { in: string }[]; requestBody?: unknown; responses: Record<string, { description: string; content?: object }> }

/** The OpenAPI document: pages at `/docs`, JSON at `/openapi.json`. Made at the first request, when the GraphQL schema is there. */
export function serveDocs(app: NestFastifyApplication): void {
  let document: OpenAPIObject | undefined;
  SwaggerModule.setup('docs', app, () => (document ??= describe(app)), { jsonDocumentUrl: 'openapi.json', yamlDocumentUrl: 'openapi.yaml', customSiteTitle: 'Reefkeeper API', swaggerOptions: { persistAuthorization: true } });
}

function describe(app: NestFastifyApplication): OpenAPIObject {
  const about = new DocumentBuilder()
    .setTitle('Reefkeeper').setVersion('1').setLicense('Apache-2.0', 'https://www.apache.org/licenses/LICENSE-2.0')
    .setDescription('Model pipeline, fleet and rollouts for Coral devices. Errors are RFC 9457 problem details with a stable `code`. Lists answer `{items, nextCursor}`: ask again with `?cursor=` until it is null. GraphQL with subscriptions is at `/graphql`.')
    .addBearerAuth({ type: 'http', scheme: 'bearer', description: 'An API token (`reef_...`)' }).addSecurityRequirements('bearer').build();
  const document = SwaggerModule.createDocument(app, about, { operationIdFactory: (controller, method) => `${controller.replace(/Controller$/, '')}.${method}` });
  const answers = answerSchemas(app.get(GraphQLSchemaHost, { strict: false }).schema);
  document.components = { ...document.components, schemas: { ...(answers.components as object), ...document.components?.schemas, Problem: problem as never } };
  for (const path of Object.values(document.paths)) {
    for (const [method, operation] of Object.entries(path) as [string, Operation][]) {
      const body = answers.bodies[operation.operationId];
      const success = Object.keys(operation.responses).find((status) => status.startsWith('2'));
      if (body && success) operation.responses[success] = { description: 'Done', content: { 'application/json': { schema: body } } };
      const named = operation.parameters?.some((one) => one.in === 'path');
      const possible = ['401', '403', ...(operation.requestBody || operation.parameters?.length ? ['400'] : []), ...(operation.requestBody ? ['413', '415'] : []), ...(named ? ['404'] : []), ...(named && method !== 'get' ? ['409'] : [])];
      for (const status of possible) {
        operation.responses[status] ??= { description: refusals[status]!, content: { 'application/problem+json': { schema: { $ref: '#/components/schemas/Problem' } } } };
      }
    }
  }
  return document;
}
