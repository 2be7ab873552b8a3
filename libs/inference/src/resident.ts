import { readFileSync } from 'node:fs';
import koffi from 'koffi';

const madvDontneed = 4;

/**
 * Lets go of the pages of programs and libraries that this process has read so far: most were for starting up and are never needed again. Node
 * alone is some 40 MiB of them, in each process. What is still needed comes back page by page from the system's cache; what is not may be used
 * for something else where memory is short (Android does the same to apps in the background). Only pages that are as the file has them:
 * mappings that nobody may write, and of which no page has become this process's own (relocations).
 * @returns MiB given back; 0 where that is not possible
 */
export function giveBackStartupCode(): number {
  if (process.platform !== 'linux') return 0;
  try {
    const madvise = koffi.load('libc.so.6').func('int madvise(uintptr_t address, size_t length, int advice)') as (address: bigint, length: bigint, advice: number) => number;
    let kib = 0;
    for (const { start, end, rssKib } of cleanMappings(readFileSync('/proc/self/smaps', 'utf8'))) if (madvise(start, end - start, madvDontneed) === 0) kib += rssKib;
    return Math.round(kib / 1_024);
  } catch {
    // Another libc, or no /proc.
    return 0;
  }
}

interface Mapping { start: bigint; end: bigint; rssKib: number }

/** Of a process's smaps (proc(5)): private, of a file, not writable, without a page of its own. */
export function cleanMappings(smaps: string): Mapping[] {
  return smaps.split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m).flatMap((block): Mapping[] => {
    const [, start, end, file] = /^([0-9a-f]+)-([0-9a-f]+) r-[x-]p [0-9a-f]+ \S+ [1-9]\d*\s+(\/.*)$/m.exec(block) ?? [];
    const kib = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(block)?.[1] ?? Number.NaN);
    if (!file || kib('Anonymous') !== 0 || kib('Private_Dirty') !== 0 || kib('Locked') !== 0) return [];
    return [{ start: BigInt(`0x${start}`), end: BigInt(`0x${end}`), rssKib: kib('Rss') }];
  });
}
