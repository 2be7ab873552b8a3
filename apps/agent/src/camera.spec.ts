import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { cameraCommand, masked, parseCamera, rowBytes, wordsOf, type CameraSource } from './camera-source.ts';
import { agentSettings } from './config.ts';
import { FrameParser } from './frame-parser.ts';

/** Cuts bytes into chunks of these lengths, again and again. */
function chunks(bytes: Uint8Array, lengths: readonly number[]): Uint8Array[] {
  const parts: Uint8Array[] = [];
  for (let at = 0, index = 0; at < bytes.length; index += 1) {
    const length = lengths[index % lengths.length]!;
    parts.push(bytes.subarray(at, at + length));
    at += length;
  }
  return parts;
}

const shape = fc.record({ row: fc.integer({ min: 1, max: 12 }), height: fc.integer({ min: 1, max: 6 }), padding: fc.integer({ min: 0, max: 3 }), frames: fc.integer({ min: 0, max: 8 }), rest: fc.integer({ min: 0, max: 40 }) });
const lengths = fc.array(fc.integer({ min: 1, max: 200 }), { minLength: 1, maxLength: 6 });
/** Byte `at` of frame `n`, padding apart. */
const value = (n: number, at: number) => (n * 31 + at * 7 + 1) & 0xff;
const frameOf = (n: number, row: number, height: number) => Buffer.from(Uint8Array.from({ length: row * height }, (_, at) => value(n, at)));

function stream(row: number, height: number, padding: number, frames: number, rest: number): Uint8Array {
  const lines: number[] = [];
  for (let n = 0; n < frames; n += 1) {
    for (let line = 0; line < height; line += 1) lines.push(...Array.from({ length: row }, (_, column) => value(n, line * row + column)), ...Array.from({ length: padding }, () => 255));
  }
  return Uint8Array.from([...lines, ...Array.from({ length: Math.min(rest, (row + padding) * height - 1) }, () => 9)]);
}

describe('the frame parser', () => {
  it('wherever the chunks end: only whole frames, unaltered, in order, and the last of each chunk', () => {
    fc.assert(fc.property(shape, lengths, ({ row, height, padding, frames, rest }, cuts) => {
      const parser = new FrameParser(row, height, row + padding);
      const size = (row + padding) * height;
      let [received, before] = [0, 0];
      for (const chunk of chunks(stream(row, height, padding, frames, rest), cuts)) {
        received += chunk.length;
        const whole = Math.floor(received / size);
        const newest = parser.push(chunk);
        if (whole > before) expect(newest).toEqual(frameOf(whole - 1, row, height));
        else expect(newest).toBeUndefined();
        expect(parser.seen).toBe(whole);
        before = whole;
      }
      expect(before).toBe(frames);
    }));
  });

  it('a frame is the reader\'s own: later ones do not change it', () => {
    fc.assert(fc.property(shape, ({ row, height, padding }) => {
      const parser = new FrameParser(row, height, row + padding);
      const size = (row + padding) * height;
      const bytes = stream(row, height, padding, 3, 0);
      const first = parser.push(bytes.subarray(0, size))!;
      parser.push(bytes.subarray(size));
      expect(first).toEqual(frameOf(0, row, height));
    }));
  });
});

describe('a camera in words', () => {
  it.each([
    ['/data/frames', { kind: 'folder', dir: '/data/frames' }], ['folder:/data', { kind: 'folder', dir: '/data' }],
    ['ffmpeg:/dev/video0', { kind: 'ffmpeg', input: '/dev/video0', format: 'v4l2', live: true }],
    ['ffmpeg:lavfi:testsrc=size=320x240', { kind: 'ffmpeg', input: 'testsrc=size=320x240', format: 'lavfi', live: false }],
    ['ffmpeg:clip.mp4', { kind: 'ffmpeg', input: 'clip.mp4', format: null, live: false }],
    ['ffmpeg:tcp://10.0.0.2:9000', { kind: 'ffmpeg', input: 'tcp://10.0.0.2:9000', format: null, live: true }],
    ['rtsp://u:p@cam/1', { kind: 'ffmpeg', input: 'rtsp://u:p@cam/1', format: null, live: true }],
    ['gst: v4l2src device=/dev/video0 ', { kind: 'gst', pipeline: 'v4l2src device=/dev/video0' }],
  ] as [string, CameraSource][])('%s', (text, source) => {
    expect(parseCamera(text)).toEqual(source);
  });

  it.each(['', 'camera', 'gst:', 'ffmpeg:', 'folder:', 'magic:thing'])('"%s" is none, and says what is', (text) => {
    expect(parseCamera(text)).toEqual(expect.stringMatching(/gst:|ffmpeg:|folder/));
  });

  it('a setting that is none is refused at start, without telling what was given', () => {
    expect(() => agentSettings({ REEF_CAMERA: 'magic://user:hunter2@cam' })).toThrow(expect.objectContaining({ code: 'config.invalid' }));
    expect(() => agentSettings({ REEF_CAMERA: 'magic://user:hunter2@cam' })).not.toThrow(/hunter2/);
  });

  it('no credentials are in a log', () => {
    const secret = fc.stringMatching(/^[A-Za-z0-9:!$%&*+@._-]{4,20}$/).filter((text) => !/^\*+$/.test(text));
    fc.assert(fc.property(secret, fc.constantFrom('rtsp', 'rtsps', 'http', 'https', 'rtmp'), (password, scheme) => {
      const marked = `SECRET${password}`;
      for (const text of [`${scheme}://admin:${marked}@10.0.0.5:554/h264`, `rtspsrc location=${scheme}://admin:${marked}@cam user-pw=${marked} ! decodebin`, `${scheme}://cam/live?user=admin&password=${marked.replaceAll(/[&]/g, '')}`, `user-pw="${marked} x"`]) {
        expect(masked(text)).not.toContain('SECRET');
      }
    }));
    expect(masked('rtsp://admin:x@10.0.0.5:554/h264')).toBe('rtsp://***@10.0.0.5:554/h264');
    expect(masked('/dev/video0: No such file or directory')).toBe('/dev/video0: No such file or directory');
  });
});

describe('the command of a camera', () => {
  const wanted = { width: 224, height: 224, channels: 3, resize: 'center-crop' } as const;

  it('ffmpeg crops to the model\'s proportions, scales and limits the rate; streams come over TCP and unbuffered', () => {
    const [file, ...args] = cameraCommand(parseCamera('rtsp://cam/1') as Extract<CameraSource, { kind: 'ffmpeg' }>, wanted, 5);
    expect(file).toBe('ffmpeg');
    expect(args.join(' ')).toContain("-rtsp_transport tcp -i rtsp://cam/1 -an -sn -dn -vf crop='min(iw,ih*224/224)':'min(ih,iw*224/224)',scale=224:224:flags=bilinear,fps=5 -pix_fmt rgb24 -f rawvideo pipe:1");
    expect(args).toContain('nobuffer');
    expect(cameraCommand(parseCamera('ffmpeg:/dev/video0') as never, { ...wanted, channels: 1, resize: 'stretch' }, 5).join(' ')).toMatch(/-f v4l2 -i \/dev\/video0 .*-vf scale=224:224:flags=bilinear,fps=5 -pix_fmt gray/);
  });

  it('a pipeline gets its words, none of a shell\'s powers', () => {
    expect(wordsOf('rtspsrc location="rtsp://a b" name=\'x y\' ! decodebin; $(rm -rf /)')).toEqual(['rtspsrc', 'location=rtsp://a b', 'name=x y', '!', 'decodebin;', '$(rm', '-rf', '/)']);
    expect(cameraCommand({ kind: 'gst', pipeline: 'videotestsrc' }, { ...wanted, width: 30, channels: 1 }, 2)).toEqual(expect.arrayContaining(['gst-launch-1.0', 'videotestsrc', 'video/x-raw,format=GRAY8,width=30,height=224,pixel-aspect-ratio=1/1', 'fdsink']));
    expect(rowBytes({ kind: 'gst', pipeline: 'x' }, { width: 30, channels: 3 })).toBe(92);
    expect(rowBytes({ kind: 'ffmpeg', input: 'x', format: null, live: true }, { width: 30, channels: 3 })).toBe(90);
  });
});
