import type { Readable } from 'node:stream';
import { Controller, Inject, Optional, Post, Req, type OnModuleInit } from '@nestjs/common';
import { HttpAdapterHost } from '@nestjs/core';
import { ApiBody, ApiConsumes, ApiTags } from '@nestjs/swagger';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { ReefError, type StoredObject } from '@reefkeeper/platform';
import { Registry } from './registry.service.ts';

const octets = 'application/octet-stream';
const defaultLimitBytes = 4 * 1024 ** 3;

/** Files on their way in: streamed to the object store as they come, never held in memory. */
@ApiTags('artifacts')
@Controller('uploads')
export class UploadsController implements OnModuleInit {
  constructor(
    @Inject(Registry) private readonly registry: Registry,
    @Inject(HttpAdapterHost) private readonly adapter: HttpAdapterHost,
    @Optional() @Inject('UPLOAD_LIMIT_BYTES') private readonly limitBytes: number = defaultLimitBytes,
  ) {}

  onModuleInit(): void {
    // Without a parser of its own Fastify refuses the type (415); this one hands the stream on untouched.
    const fastify = this.adapter.httpAdapter.getInstance<FastifyInstance>();
    if (!fastify.hasContentTypeParser(octets)) fastify.addContentTypeParser(octets, (_request, payload, done) => done(null, payload));
  }

  @Post()
  @ApiConsumes(octets)
  @ApiBody({ schema: { type: 'string', format: 'binary' } })
  async upload(@Req() request: FastifyRequest): Promise<StoredObject> {
    const { body, headers } = request;
    if (headers['content-type'] !== octets || typeof (body as Readable | undefined)?.pipe !== 'function') {
      throw new ReefError('upload.type_wrong', 'invalid', `Send the file's bytes as the body, with Content-Type: ${octets}.`);
    }
    if (Number(headers['content-length'] ?? 0) > this.limitBytes) throw new ReefError('upload.too_large', 'invalid', `The upload is larger than the limit of ${this.limitBytes} bytes.`, { detail: { limitBytes: this.limitBytes } });
    const stored = await this.registry.keep(body as Readable, { mediaType: octets, role: 'upload' }, { limitBytes: this.limitBytes });
    if (stored.bytes === 0) throw new ReefError('upload.empty', 'invalid', 'The upload has no bytes. Send the file as the body of the request.');
    return stored;
  }
}
