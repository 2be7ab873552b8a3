import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { controllerName, mayUse } from './broker-acl.ts';
import { selectorHints, type KnownLabels } from './selector-hints.ts';
import { matches, parseSelector } from './selector.ts';

const labels = { site: 'lyon', line: 'a', 'vision/kind': 'top', spare: '' };

describe('label selectors', () => {
  it.each([
    ['', true], ['site=lyon', true], ['site==lyon', true], ['site=paris', false], ['site!=paris', true], ['site != lyon', false],
    ['line in (a,b)', true], ['line in ( b , c )', false], ['line notin (b,c)', true], ['floor notin (1)', true], ['floor!=1', true],
    ['site', true], ['!site', false], ['!floor', true], ['floor', false], ['vision/kind=top', true], ['spare=', true], ['site=lyon,line in (a,b),!floor', true], ['site=lyon,line=b', false],
  ])('%j is %s', (text, wanted) => {
    expect(matches(parseSelector(text), labels)).toBe(wanted);
  });

  it.each(['site=', 'spare='])('%j may ask for the empty value', (text) => expect(parseSelector(text)).toHaveLength(1));

  it.each(['site in', 'in (a)', 'line in ()', '=a', 'a=b=c', 'a b', 'site in (a', '!!x', 'a,,b'])('%j says what is wrong', (text) => {
    expect(() => parseSelector(text)).toThrow(expect.objectContaining({ code: 'selector.invalid' }));
  });

  it('any text gives requirements or a selector error', () => {
    fc.assert(fc.property(fc.string(), (text) => {
      try {
        parseSelector(text);
      } catch (error) {
        expect(error).toMatchObject({ code: 'selector.invalid' });
      }
    }));
  });
});

describe('what a selector that chooses nobody may have meant', () => {
  const known: KnownLabels = new Map([['site', new Map([['lyon', 3], ['paris', 2]])], ['line', new Map([['a', 5]])]]);
  it.each([
    ['sitee=lyon', ['No device has the label sitee; did you mean site?']], ['Site', ['No device has the label Site; did you mean site?']], ['lyon', ['No device has the label lyon; did you mean site=lyon?']],
    ['lyno', ['No device has the label lyno; did you mean site=lyon?']], ['pariss', ['No device has the label pariss; did you mean site=paris?']],
    ['3x', ['No device has the label 3x; devices have site, line.']], ['site=lion', ['No device has site=lion; did you mean site=lyon?']], ['site=tokyo', ['No device has site=tokyo; there is site=lyon, site=paris.']],
    ['site in (tokyo,oslo)', ['No device has site=tokyo or site=oslo; there is site=lyon, site=paris.']], ['site=lyon,line=a', []], ['site!=rome,!floor', []], ['floor,site=Lyon', ['No device has the label floor; devices have site, line.', 'No device has site=Lyon; did you mean site=lyon?']],
  ])('%s', (text, hints) => expect(selectorHints(parseSelector(text), known)).toEqual(hints));
  it('no labels at all', () => expect(selectorHints(parseSelector('site=lyon'), new Map())).toEqual(['No device has the label site; none has any label.']));
});

describe('broker access', () => {
  it.each([
    ['dev-1', 'reef/v1/dev-1/reported', 'publish', true], ['dev-1', 'reef/v1/dev-1/cmd/17/result', 'publish', true], ['dev-1', 'reef/v1/dev-1/desired', 'publish', false],
    ['dev-1', 'reef/v1/dev-2/reported', 'publish', false], ['dev-1', 'reef/v1/dev-1/reported/x', 'publish', false], ['dev-1', '$SYS/x', 'publish', false],
    ['dev-1', 'reef/v1/dev-1/desired', 'subscribe', true], ['dev-1', 'reef/v1/dev-1/cmd/+', 'subscribe', true], ['dev-1', 'reef/v1/+/desired', 'subscribe', false],
    ['dev-1', 'reef/v1/dev-1/#', 'subscribe', false], ['dev-1', '#', 'subscribe', false], ['dev-1', 'reef/v1/dev-2/desired', 'subscribe', false],
    [controllerName, 'reef/v1/+/telemetry', 'subscribe', true], [controllerName, 'reef/v1/dev-9/desired', 'publish', true], [controllerName, 'other/topic', 'publish', false],
  ] as const)('%s %s %s: %s', (name, topic, action, wanted) => {
    expect(mayUse(name, topic, action)).toBe(wanted);
  });
});
