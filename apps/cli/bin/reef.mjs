#!/usr/bin/env node
import { launch } from '@reefkeeper/platform/launch';

await launch('reef', new URL('../dist/main.js', import.meta.url));
