// `--import` of a TypeScript bench that uses test/support: the libraries as built, since no type stripping runs their decorators; fixtures from sources.
import { registerHooks } from 'node:module';

const fixture = new URL('../../libs/edgetpu/src/tflite-builder.fixture.ts', import.meta.url).href;
registerHooks({ resolve: (specifier, context, next) => next(specifier === '@reefkeeper/edgetpu/fixture' ? fixture : specifier, context) });
