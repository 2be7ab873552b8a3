import type { IncomingHttpHeaders } from 'node:http';
import { ReefError } from '@reefkeeper/platform/errors';
import { maxMetrics, metricName } from '@reefkeeper/protocol';
import { z } from 'zod';
import { boxesOf, classesOf, type Answer, type Question } from './answer.ts';
import { encodeInferResponse, modelInputs, modelMetadata, outputPlaces, parseInferRequest } from './open-inference.ts';
import { imageInput, type Pixels } from './runner.ts';
import type { Serving } from './serving.ts';

/** What the local API needs of the agent. */
export interface Workloads {
  names(): string[];
  get(name: string): Serving | undefined;
}

export interface Ask {
  body: Buffer;
  headers: IncomingHttpHeaders;
  query: URLSearchParams;
  id: string;
  signal: AbortSignal;
  workloads: Workloads;
  version: string;
}

export interface Reply { status?: number; headers?: Record<string, string | number>; body: unknown }

interface Route { method: 'GET' | 'POST'; takes: 'nothing' | 'body'; answer(ask: Ask, ...names: string[]): Reply | Promise<Reply> }

const workload = '([a-z0-9][a-z0-9-]{0,62})';
const model = `/v2/models/${workload}(?:/versions/([A-Za-z0-9]{1,64}))?`;

const routes: [string, Route][] = [
  ['/v2/?', get(({ version }) => ({ body: { name: 'reef-agent', version, extensions: ['binary_tensor_data'] } }))],
  ['/v2/health/live', get(() => ({ body: { live: true } }))],
  ['/v2/health/ready', get(({ workloads }) => readiness({}, workloads.names().every((name) => workloads.get(name)!.ready)))],
  [model, get(async (ask, name, version) => ({ body: modelMetadata(name!, await facts(ask, name!, version)) }))],
  [`${model}/ready`, get(({ workloads }, name, version) => {
    const serving = served(workloads, name!);
    return readiness({ name }, serving.ready && (version === undefined || serving.is(version)));
  })],
  [`${model}/infer`, post((ask, name, version) => infer(ask, name!, version))],
  ['/v1/workloads', get(({ workloads }) => ({ body: { workloads: workloads.names().map((name) => ({ name, ready: workloads.get(name)!.ready, ...workloads.get(name)!.slot })) } }))],
  [`/v1/workloads/${workload}/classify`, post((ask, name) => classify(ask, name!))],
  [`/v1/workloads/${workload}/detect`, post((ask, name) => detect(ask, name!))],
  [`/v1/workloads/${workload}/feedback`, post((ask, name) => feedback(ask, name!))],
  [`/v1/workloads/${workload}/metrics`, post((ask, name) => metrics(ask, name!))],
  ['/v1/metrics', post((ask) => metrics(ask, onlyWorkload(ask.workloads)))],
];
const compiled = routes.map(([path, route]) => ({ path: new RegExp(`^${path}$`), route }));

/** @throws ReefError `route.missing`, `route.method_wrong` */
export function routeOf(method: string, path: string): { takes: Route['takes']; answer(ask: Ask): Promise<Reply> } {
  const here = compiled.flatMap(({ path: pattern, route }) => {
    const match = pattern.exec(path);
    return match ? [{ route, names: match.slice(1) }] : [];
  });
  const found = here.find(({ route }) => route.method === method || (method === 'HEAD' && route.method === 'GET'));
  if (found) return { takes: found.route.takes, answer: async (ask) => found.route.answer(ask, ...found.names) };
  if (here.length > 0) throw new ReefError('route.method_wrong', 'invalid', `${path} takes ${here[0]!.route.method}, not ${method}.`);
  throw new ReefError('route.missing', 'not_found', `There is no ${path} here; see docs/local-api.md.`);
}

function get(answer: Route['answer']): Route {
  return { method: 'GET', takes: 'nothing', answer };
}

function post(answer: Route['answer']): Route {
  return { method: 'POST', takes: 'body', answer };
}

function readiness(more: Record<string, unknown>, ready: boolean): Reply {
  return { status: ready ? 200 : 503, body: { ...more, ready } };
}

async function infer(ask: Ask, name: string, version: string | undefined): Promise<Reply> {
  const serving = served(ask.workloads, name, version);
  const announced = ask.headers['inference-header-content-length'];
  const request = parseInferRequest(ask.body, announced === undefined ? undefined : Number(announced));
  const id = request.id ?? ask.id;
  let places: number[] | undefined;
  let meant: Parameters<Question['prepare']>[0] | undefined;
  const answer = await serving.ask({ id, label: null, prepare: (model) => {
    places ??= outputPlaces(request, model.manifest);
    meant ??= model;
    return modelInputs(request, model.manifest, model.tensors, meant);
  } }, ask.signal);
  const { body, headerBytes } = encodeInferResponse(request, name, id, answer, places);
  return { body, headers: { ...saidBy(answer, id), ...(headerBytes === undefined ? {} : { 'content-type': 'application/octet-stream', 'inference-header-content-length': headerBytes }) } };
}

async function classify(ask: Ask, name: string): Promise<Reply> {
  const k = wholeNumber(ask.query, 'k', 5, 1, 100);
  const answer = await served(ask.workloads, name).ask(imageQuestion(ask), ask.signal);
  const classes = classesOf(answer, k);
  if (!classes) throw new ReefError('workload.other_task', 'invalid', `Workload ${name} does ${answer.manifest.task}, not classification.`);
  return { body: { ...told(answer, name, ask.id), classes }, headers: saidBy(answer, ask.id) };
}

async function detect(ask: Ask, name: string): Promise<Reply> {
  const leastScore = Number(ask.query.get('minScore') ?? 0.5);
  if (!(leastScore >= 0 && leastScore <= 1)) throw new ReefError('request.malformed', 'invalid', 'minScore is a number from 0 to 1.');
  const answer = await served(ask.workloads, name).ask(imageQuestion(ask), ask.signal);
  const boxes = boxesOf(answer, leastScore);
  if (!boxes) throw new ReefError('workload.other_task', 'invalid', answer.manifest.task === 'detection' ? `The outputs of workload ${name} are not boxes that can be read here; use /v2/models/${name}/infer.` : `Workload ${name} does ${answer.manifest.task}, not detection.`);
  const { preprocessing } = answer.manifest.inputs[0]!;
  const detections = boxes.map(({ box: [top, left, bottom, right], kind, score }) => ({ index: kind, label: answer.manifest.labels?.[kind] ?? `${kind}`, score, box: { top, left, bottom, right } }));
  return { body: { ...told(answer, name, ask.id), boxesOf: preprocessing.kind === 'image' && preprocessing.resize === 'center-crop' ? 'centre' : 'image', detections }, headers: saidBy(answer, ask.id) };
}

const feedbackBody = z.object({ id: z.string().optional(), requestId: z.string().optional(), label: z.union([z.string().min(1).max(256), z.number().int().nonnegative()]) });

function feedback(ask: Ask, name: string): Reply {
  const { id, requestId, label } = json(feedbackBody, ask.body);
  const asked = id ?? requestId;
  if (asked === undefined) throw new ReefError('request.malformed', 'invalid', 'Say which answer is meant: "id" as the answer had it.');
  return { body: { id: asked, ...served(ask.workloads, name).feedback(asked, `${label}`), label: `${label}` } };
}

const metricsBody = z.record(metricName, z.number().min(-1e100).max(1e100)).refine((values) => Object.keys(values).length <= maxMetrics, `at most ${maxMetrics} names`);

function metrics(ask: Ask, name: string): Reply {
  const values = json(metricsBody, ask.body);
  served(ask.workloads, name).measure(values);
  return { body: { workload: name, taken: Object.keys(values).length } };
}

/** @throws ReefError `workload.which`, `workload.missing` */
function onlyWorkload(workloads: Workloads): string {
  const names = workloads.names();
  if (names.length === 1) return names[0]!;
  if (names.length === 0) throw new ReefError('workload.missing', 'not_found', 'No workload is served on this device.');
  throw new ReefError('workload.which', 'invalid', `This device serves ${names.join(', ')}; post to /v1/workloads/NAME/metrics to say which is meant.`);
}

function imageQuestion({ body, query, id }: Ask): Question {
  if (body.length === 0) throw new ReefError('image.unreadable', 'invalid', 'The body is empty; send the image as it is (JPEG, PNG, BMP, WebP), or raw pixels with ?width=&height=.');
  const image = query.has('width') || query.has('height') ? rawPixels(body, query) : body;
  return { id, label: null, picture: image, prepare: async (model) => [await imageInput(model, image)] };
}

function rawPixels(pixels: Buffer, query: URLSearchParams): Pixels {
  const channels = wholeNumber(query, 'channels', 3, 1, 3);
  if (channels === 2) throw new ReefError('request.malformed', 'invalid', 'channels is 1 or 3.');
  return { pixels, width: wholeNumber(query, 'width', 0, 1, 16_384), height: wholeNumber(query, 'height', 0, 1, 16_384), channels: channels as 1 | 3 };
}

function wholeNumber(query: URLSearchParams, name: string, otherwise: number, least: number, most: number): number {
  const text = query.get(name);
  const value = text === null ? otherwise : Number(text);
  if (Number.isInteger(value) && value >= least && value <= most) return value;
  throw new ReefError('request.malformed', 'invalid', `${name} is a whole number from ${least} to ${most}.`);
}

/** @throws ReefError `request.malformed` */
function json<T>(schema: z.ZodType<T>, body: Buffer): T {
  let given: unknown;
  try {
    given = JSON.parse(body.toString('utf8'));
  } catch {
    throw new ReefError('request.malformed', 'invalid', 'The body is not JSON.');
  }
  const parsed = schema.safeParse(given);
  if (parsed.success) return parsed.data;
  throw new ReefError('request.malformed', 'invalid', z.prettifyError(parsed.error));
}

/** @throws ReefError `workload.missing`, `workload.version_missing` */
function served(workloads: Workloads, name: string, version?: string): Serving {
  const serving = workloads.get(name);
  if (!serving) {
    const names = workloads.names();
    throw new ReefError('workload.missing', 'not_found', `No workload ${name} is served on this device${names.length > 0 ? `; there is ${names.join(', ')}` : ''}.`);
  }
  if (version !== undefined && serving.ready && !serving.is(version)) throw new ReefError('workload.version_missing', 'not_found', `Workload ${name} does not serve version ${version} now.`);
  return serving;
}

async function facts(ask: Ask, name: string, version: string | undefined): ReturnType<Serving['facts']> {
  const serving = served(ask.workloads, name, version);
  if (!serving.ready) throw new ReefError('inference.not_ready', 'unavailable', `Workload ${name} is being loaded.`);
  return serving.facts(ask.signal);
}

function told({ manifest, slot, preprocessUs, invokeUs, totalUs }: Answer, name: string, id: string): Record<string, unknown> {
  const rounded = { preprocessUs: Math.round(preprocessUs), invokeUs: Math.round(invokeUs), totalUs: Math.round(totalUs) };
  return { id, workload: name, model: manifest.model, model_version: `${manifest.version}`, ...slot, latency: rounded };
}

function saidBy({ slot }: Answer, id: string): Record<string, string> {
  return { 'x-reef-bundle': slot.bundle, 'x-reef-backend': slot.backend, 'x-request-id': id.replaceAll(/[^\x20-\x7e]/g, '?') };
}
