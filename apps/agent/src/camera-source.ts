/** Where frames come from. */
export type CameraSource =
  | { kind: 'folder'; dir: string }
  /** Anything that ffmpeg reads: a device, a file, an address. `live`: it gives frames in its own time. */
  | { kind: 'ffmpeg'; input: string; format: string | null; live: boolean }
  | { kind: 'gst'; pipeline: string };

/** What the models want to see: a child scales to it, so that no frame is larger than it must be on its way. */
export interface FrameShape { width: number; height: number; channels: 1 | 3; resize: 'stretch' | 'center-crop' }

/** `/folder`, `folder:/folder`, `ffmpeg:/dev/video0`, `ffmpeg:FORMAT:INPUT`, `rtsp://...`, `http://...`, `gst:PIPELINE`. @returns in words what is wrong */
export function parseCamera(text: string): CameraSource | string {
  const trimmed = text.trim();
  const [, scheme, rest = ''] = /^([a-z]+):(.*)$/is.exec(trimmed) ?? [];
  switch (scheme?.toLowerCase()) {
    case 'folder': return rest ? { kind: 'folder', dir: rest } : 'folder: names no folder';
    case 'rtsp': case 'rtsps': case 'http': case 'https': case 'rtmp': case 'udp': case 'srt': return { kind: 'ffmpeg', input: trimmed, format: null, live: true };
    case 'gst': return rest.trim() ? { kind: 'gst', pipeline: rest.trim() } : 'gst: names no pipeline; write for example gst:v4l2src device=/dev/video0';
    case 'ffmpeg': {
      if (!rest.trim()) return 'ffmpeg: names no input; write for example ffmpeg:/dev/video0';
      if (rest.startsWith('/dev/video')) return { kind: 'ffmpeg', input: rest, format: 'v4l2', live: true };
      const [, format, input] = /^(lavfi|v4l2|mjpeg|h264|concat):(.+)$/s.exec(rest) ?? [];
      // ffmpeg reads a file as fast as it can; a camera of one runs at the file's own pace.
      return format ? { kind: 'ffmpeg', input: input!, format, live: format === 'v4l2' } : { kind: 'ffmpeg', input: rest, format: null, live: /^[a-z]+:\/\//i.test(rest) };
    }
    case undefined: return trimmed.startsWith('/') || trimmed.startsWith('.') ? { kind: 'folder', dir: trimmed } : `"${trimmed}" is no camera: give a folder, ffmpeg:/dev/video0, rtsp://..., http://... or gst:PIPELINE`;
    default: return `${scheme}: is no kind of camera: give a folder, ffmpeg:/dev/video0, rtsp://..., http://... or gst:PIPELINE`;
  }
}

/** The program that writes raw frames of that shape, one behind the other, to its standard output. */
export function cameraCommand(source: Exclude<CameraSource, { kind: 'folder' }>, shape: FrameShape, fps: number): [string, ...string[]] {
  return source.kind === 'gst' ? gstCommand(source.pipeline, shape, fps) : ffmpegCommand(source, shape, fps);
}

function ffmpegCommand({ input, format, live }: Extract<CameraSource, { kind: 'ffmpeg' }>, { width, height, channels, resize }: FrameShape, fps: number): [string, ...string[]] {
  const rtsp = /^rtsps?:/i.test(input);
  // Twice the same ratio: the largest centred part with the target's proportions, then its size.
  const crop = resize === 'center-crop' ? [`crop='min(iw,ih*${width}/${height})':'min(ih,iw*${height}/${width})'`] : [];
  const filters = [...crop, `scale=${width}:${height}:flags=bilinear`, `fps=${fps}`];
  return [
    'ffmpeg', '-nostdin', '-hide_banner', '-loglevel', 'error',
    // Nothing is worth waiting for: the newest frame is the one that counts.
    ...(live ? ['-fflags', 'nobuffer', '-flags', 'low_delay'] : ['-re', ...(format ? [] : ['-stream_loop', '-1'])]),
    ...(rtsp ? ['-rtsp_transport', 'tcp'] : []), ...(format ? ['-f', format] : []), '-i', input,
    '-an', '-sn', '-dn', '-vf', filters.join(','), '-pix_fmt', channels === 1 ? 'gray' : 'rgb24', '-f', 'rawvideo', 'pipe:1',
  ];
}

function gstCommand(pipeline: string, { width, height, channels, resize }: FrameShape, fps: number): [string, ...string[]] {
  const caps = `video/x-raw,format=${channels === 1 ? 'GRAY8' : 'RGB'},width=${width},height=${height},pixel-aspect-ratio=1/1`;
  const crop = resize === 'center-crop' ? `! aspectratiocrop aspect-ratio=${width}/${height} ` : '';
  const text = `${pipeline} ! videoconvert ${crop}! videoscale add-borders=false ! videorate drop-only=true max-rate=${Math.max(1, Math.round(fps))} ! ${caps} ! queue leaky=downstream max-size-buffers=1 ! fdsink fd=1 sync=true`;
  // gst-launch takes the pipeline in words, quotation marks and all.
  return ['gst-launch-1.0', '-q', ...wordsOf(text)];
}

/** As a shell would split it, without any of a shell's other powers. */
export function wordsOf(text: string): string[] {
  return [...text.matchAll(/(?:[^\s"']|"(?:\\.|[^"])*"|'[^']*')+/g)].map(([word]) => word.replaceAll(/"((?:\\.|[^"])*)"|'([^']*)'/g, (_, double: string | undefined, single: string | undefined) => double?.replaceAll(/\\(.)/g, '$1') ?? single ?? ''));
}

/** Rows of gst's buffers are padded to 4 bytes (GstVideoInfo); ffmpeg's are not. */
export function rowBytes(source: Exclude<CameraSource, { kind: 'folder' }>, { width, channels }: Pick<FrameShape, 'width' | 'channels'>): number {
  return source.kind === 'gst' ? (width * channels + 3) & ~3 : width * channels;
}

/** Without what nobody should read in a log: user and password of an address, and what pipelines call by those names. */
export function masked(text: string): string {
  return text.replaceAll(/(\b[a-z][a-z0-9+.-]*:\/\/)[^/\s"']*@/gi, '$1***@').replaceAll(/\b(user-id|user-pw|password|passwd|token|key|auth)=("[^"]*"|'[^']*'|[^\s&"']+)/gi, '$1=***');
}
