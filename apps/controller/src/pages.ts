import { sep } from 'node:path';
import fastifyStatic from '@fastify/static';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import type { FastifyInstance } from 'fastify';
import { Histogram } from 'prom-client';

const duration = new Histogram({ name: 'reef_http_seconds', help: 'Time to answer by route and status', labelNames: ['method', 'route', 'status'], buckets: [0.005, 0.02, 0.1, 0.5, 2, 10] });

/** Pages of the console that live in the browser: the server answers all of them with the same document. */
const consolePages = ['/models', '/models/*', '/rollouts', '/rollouts/*', '/devices/*', '/jobs', '/jobs/*', '/captures', '/alerts', '/alerts/*', '/config', '/sites'];

// The documentation page writes its own styles and starts itself from an inline script; nothing else may.
const policies = {
  console: "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self' ws: wss:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'",
  docs: "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; base-uri 'self'; frame-ancestors 'none'",
  data: "default-src 'none'; frame-ancestors 'none'",
};

/** What every answer of the API port carries, and how long each took. */
export function guardAnswers(server: FastifyInstance): void {
  server.addHook('onSend', async (request, reply) => {
    void reply.header('x-content-type-options', 'nosniff').header('referrer-policy', 'no-referrer');
    // What a 304 carries replaces the headers of the page that the browser has kept (RFC 9111 section 3.2), and it names no content type to choose a policy by.
    if (reply.statusCode === 304) return;
    const policy = request.url.startsWith('/docs') ? policies.docs : String(reply.getHeader('content-type')).startsWith('text/html') ? policies.console : policies.data;
    void reply.header('content-security-policy', policy);
    // Answers to a token are for its holder.
    if (!reply.hasHeader('cache-control')) void reply.header('cache-control', 'no-store');
  });
  server.addHook('onResponse', async (request, reply) => {
    duration.observe({ method: request.method, route: request.routeOptions.url ?? 'none', status: reply.statusCode }, reply.elapsedTime / 1_000);
  });
}

/** The built console, where there is one; without it the API stands alone. */
export async function serveConsole(app: NestFastifyApplication, dir: string | undefined): Promise<void> {
  if (!dir) return;
  const server = app.getHttpAdapter().getInstance() as unknown as FastifyInstance;
  await app.register(fastifyStatic as never, {
    root: dir, wildcard: false, cacheControl: false,
    // Built assets have their hash in the name.
    setHeaders: (reply: { header(name: string, value: string): void }, path: string) => reply.header('cache-control', path.includes(`${sep}assets${sep}`) ? 'public, max-age=31536000, immutable' : 'no-cache'),
  } as never);
  for (const page of consolePages) server.get(page, (_request, reply) => (reply as unknown as { sendFile(name: string): unknown }).sendFile('index.html'));
}
