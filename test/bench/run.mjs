// `npm run bench -- NAME [options]`: runs test/bench/NAME.bench.mjs, whose default export gets the options and answers whether the limits held.
import { readdir } from 'node:fs/promises';

const [name, ...options] = process.argv.slice(2);
const names = (await readdir(import.meta.dirname)).filter((file) => file.endsWith('.bench.mjs')).map((file) => file.slice(0, -'.bench.mjs'.length)).sort();

if (Number(process.versions.node.split('.')[0]) < 24) {
  console.error(`The benchmarks need Node 24; this is ${process.version}. Start them with npm run bench.`);
  process.exitCode = 2;
} else if (!names.includes(name)) {
  console.error(`Usage: npm run bench -- NAME [options]\nBenchmarks: ${names.join(', ')}`);
  process.exitCode = 2;
} else {
  const { default: bench } = await import(`./${name}.bench.mjs`);
  process.exitCode = (await bench(options)) ? 0 : 1;
}
