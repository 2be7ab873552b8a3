import { expect, it } from 'vitest';
import { addressOf } from './api.ts';

it('a path asks for what is said, and nothing of what is empty; the controller reads what was meant', () => {
  expect(addressOf('/devices')).toBe('/devices');
  expect(addressOf('/devices', { selector: '', id: undefined })).toBe('/devices');
  const said = { selector: 'site in (a,b),line=c d&e', state: 'OPEN,CLOSED', label: '*', cursor: 'a+b/=', id: '0' };
  const [path, query] = addressOf('/alerts', { ...said, kind: '' }).split('?');
  expect(path).toBe('/alerts');
  expect(Object.fromEntries(new URLSearchParams(query))).toEqual(said);
});
