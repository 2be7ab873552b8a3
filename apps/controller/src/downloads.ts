import { Readable } from 'node:stream';
import { readWhole, ReefError, type ObjectStore } from '@reefkeeper/platform';
import type { FastifyReply, FastifyRequest } from 'fastify';

/** Blobs up to this size are kept in memory once asked for: a rollout sends the same few to everyone. */
const hotBlobBytes = 32 * 1024 ** 2;
const hotTotalBytes = 128 * 1024 ** 2;

/** Stored blobs over HTTP, with ranges and validators (RFC 9110). A blob's digest is its entity tag: its bytes never change. */
export class Downloads {
  private readonly hot = new Map<string, { bytes: number; content: Promise<Buffer> }>();
  private hotBytes = 0;

  constructor(private readonly objects: ObjectStore) {}

  /** @throws ReefError `artifact.missing` */
  async serve(digest: string, type: string, request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> {
    const { bytes } = await this.objects.stat(digest).catch((cause: unknown) => {
      throw cause instanceof ReefError && cause.kind === 'not_found' ? new ReefError('artifact.missing', 'not_found', 'There is no such blob.', { detail: { digest }, cause }) : cause;
    });
    const tag = `"${digest}"`;
    void reply.header('etag', tag).header('accept-ranges', 'bytes').header('cache-control', 'private, max-age=31536000, immutable').type(type);
    if (anyMatches(request.headers['if-none-match'], tag)) return reply.status(304).send();
    // A client that resumes something else gets the whole (section 13.1.5).
    const ifRange = request.headers['if-range'];
    const wanted = ifRange === undefined || ifRange === tag ? rangeOf(request.headers.range, bytes) : undefined;
    if (wanted === 'unsatisfiable') return reply.status(416).header('content-range', `bytes */${bytes}`).send();
    const { start, end } = wanted ?? { start: 0, end: bytes - 1 };
    if (wanted) void reply.status(206).header('content-range', `bytes ${start}-${end}/${bytes}`);
    void reply.header('content-length', end - start + 1);
    // An empty stream: Fastify would count the bytes of anything else.
    if (request.method === 'HEAD') return reply.send(Readable.from([]));
    if (bytes <= hotBlobBytes) return reply.send((await this.whole(digest, bytes)).subarray(start, end + 1));
    return reply.send(await this.objects.read(digest, { start, end }));
  }

  /** From memory; read once however many ask at the same time. The one unused for longest makes room. */
  private whole(digest: string, bytes: number): Promise<Buffer> {
    let found = this.hot.get(digest);
    if (found) {
      this.hot.delete(digest);
    } else {
      found = { bytes, content: readWhole(this.objects, digest) };
      found.content.catch(() => this.forget(digest));
      this.hotBytes += bytes;
    }
    this.hot.set(digest, found);
    for (const oldest of this.hot.keys()) {
      if (this.hotBytes <= hotTotalBytes) break;
      this.forget(oldest);
    }
    return found.content;
  }

  private forget(digest: string): void {
    this.hotBytes -= this.hot.get(digest)?.bytes ?? 0;
    this.hot.delete(digest);
  }
}

function anyMatches(header: string | undefined, tag: string): boolean {
  return header !== undefined && header.split(',').some((one) => one.trim() === '*' || one.trim().replace(/^W\//, '') === tag);
}

/** One range (section 14.2); anything else is answered with the whole, as the standard allows. */
export function rangeOf(header: string | undefined, bytes: number): { start: number; end: number } | 'unsatisfiable' | undefined {
  const match = /^bytes=(\d*)-(\d*)$/.exec(header ?? '');
  if (!match || (match[1] === '' && match[2] === '')) return undefined;
  // Backwards is not a range at all, and so ignored.
  if (match[1] !== '' && match[2] !== '' && Number(match[1]) > Number(match[2])) return undefined;
  const start = match[1] === '' ? Math.max(0, bytes - Number(match[2])) : Number(match[1]);
  const end = match[1] === '' || match[2] === '' ? bytes - 1 : Math.min(Number(match[2]), bytes - 1);
  return start > end || start >= bytes ? 'unsatisfiable' : { start, end };
}
