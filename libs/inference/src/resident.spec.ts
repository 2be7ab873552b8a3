import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { cleanMappings } from './resident.ts';

const block = (head: string, kib: Partial<Record<'Rss' | 'Anonymous' | 'Private_Dirty' | 'Locked', number>> = {}) => `${head}
Size:               1024 kB
Rss:              ${kib.Rss ?? 512} kB
Pss:                 100 kB
Private_Dirty:        ${kib.Private_Dirty ?? 0} kB
Anonymous:            ${kib.Anonymous ?? 0} kB
Locked:               ${kib.Locked ?? 0} kB
VmFlags: rd ex mr mw me sd
`;

describe('start-up code', () => {
  it('is what is mapped from a file, cannot be written, and is as the file has it', () => {
    const smaps = [
      block('00400000-00500000 r-xp 00000000 fe:00 1234                       /usr/bin/node'),
      block('00500000-00600000 r--p 00100000 fe:00 1234                       /usr/bin/no de'),
      block('7f0000000000-7f0000100000 rw-p 00000000 fe:00 99                 /lib/libc.so.6'),
      block('7f0000100000-7f0000200000 r--p 00000000 fe:00 99                 /lib/relocated.so', { Anonymous: 16 }),
      block('7f0000200000-7f0000300000 r-xp 00000000 fe:00 99                 /lib/patched.so', { Private_Dirty: 4 }),
      block('7f0000300000-7f0000400000 r-xp 00000000 fe:00 99                 /lib/locked.so', { Locked: 512 }),
      block('7f0000400000-7f0000500000 r--s 00000000 fe:00 99                 /shared'),
      block('7f0000500000-7f0000600000 r-xp 00000000 00:00 0 '),
      block('7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0                  [vdso]'),
    ].join('');
    expect(cleanMappings(smaps)).toEqual([{ start: 0x400000n, end: 0x500000n, rssKib: 512 }, { start: 0x500000n, end: 0x600000n, rssKib: 512 }]);
  });

  it.skipIf(process.platform !== 'linux')('can be let go of, and the process goes on as before (Linux)', () => {
    const script = `
      import { createHash } from 'node:crypto';
      import { giveBackStartupCode } from ${JSON.stringify(join(import.meta.dirname, 'resident.ts'))};
      const before = process.memoryUsage.rss();
      const given = giveBackStartupCode();
      const rss = process.memoryUsage.rss();
      const digest = createHash('sha256').update(JSON.stringify(Array.from({ length: 1000 }, (_, at) => at))).digest('hex');
      console.log(JSON.stringify({ given, less: (before - rss) / 2 ** 20, digest, again: giveBackStartupCode() >= 0 }));
    `;
    const said = JSON.parse(execFileSync(process.execPath, ['--conditions=@reefkeeper/source', '--experimental-transform-types', '--disable-warning=ExperimentalWarning', '--input-type=module', '-e', script], { cwd: import.meta.dirname, encoding: 'utf8' })) as { given: number; less: number; digest: string; again: boolean };
    expect(said).toMatchObject({ digest: 'b1c32e2197c96b83093960b247b9a8eac730c9527f14fa7691c116b77d679a63', again: true });
    expect(said.given).toBeGreaterThan(10);
    expect(said.less).toBeGreaterThan(5);
  });
});
