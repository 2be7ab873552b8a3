// Writes the models that agent-overhead measures by default into the folder given: run with the sources' condition and type stripping.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { coloursModel } from '../support/colours.ts';

const folder = process.argv[2]!;
writeFileSync(join(folder, 'colours.tflite'), coloursModel());
writeFileSync(join(folder, 'colours-slow.tflite'), coloursModel({ ballast: 6 }));
