// node template_oracle.mjs TEMPLATE COUNT: COUNT generated conversations, one a line as {conversation, expected}, where
// `expected` is what @huggingface/jinja renders. The same conversations every time.
import {readFileSync} from 'node:fs';

import {Template} from '@huggingface/jinja';

const [templatePath, count] = process.argv.slice(2);
const template = new Template(readFileSync(templatePath, 'utf8'));

let state = 12345;
function random(below) {  // mulberry32
  state = (state + 0x6d2b79f5) | 0;
  let t = Math.imul(state ^ (state >>> 15), 1 | state);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) % below;
}
const chance = (percent) => random(100) < percent;
const pick = (list) => list[random(list.length)];
const many = (most, make) => Array.from({length: random(most + 1)}, make);

const pieces = [
  'Hello', ' world', '\n', '  ', '\t', 'é', '日本', '😀', '"quoted"', "it's", '\\', '</think>', '<think>', '<|user|>',
  '<tool_call>', '{{ x }}', '{% y %}', '{"a": 1}', '<arg_value>', '/nothink', '\u2003', '\u00a0', '0', 'None',
];
const text = () => many(6, () => pick(pieces)).join('');
const name = () => pick(['get_weather', 'search', 'write_file', 'ünï', 'a.b']);

// No whole-number floats and no exponents: JavaScript and Python print those differently.
function value(depth) {
  switch (random(depth < 3 ? 9 : 6)) {
    case 0:
      return text();
    case 1:
      return random(1000) - 500;
    case 2:
      return random(1000) + 0.25;
    case 3:
      return chance(50);
    case 4:
      return null;
    case 5:
      return '';
    case 6:
      return many(3, () => value(depth + 1));
    default:
      return object(depth + 1);
  }
}
function object(depth) {
  return Object.fromEntries(many(4, () => [pick(['city', 'days', 'ключ', 'a b', 'nested', 'x"y']), value(depth)]));
}

function content() {
  if (chance(10)) return null;
  if (chance(15)) return many(3, () => (chance(70) ? {type: 'text', text: text()} : pick([text(), {type: 'image'}])));
  return text();
}
const tool = () => ({
  type: 'function',
  function: {name: name(), description: text(), parameters: {type: 'object', properties: object(0)}},
});
function call() {
  const args = object(0);
  const inner = {name: name(), arguments: chance(50) ? args : JSON.stringify(args)};
  return chance(70) ? {id: 'call_1', type: 'function', function: inner} : inner;
}
// @huggingface/jinja's rstrip and lstrip ignore their argument, which shows when a turn's reasoning is only blanks.
function blankReasoning(content) {
  const visible = Array.isArray(content) ? content.map((part) => part.text ?? part).join('') : content ?? '';
  const reasoning = visible.split('</think>')[0].split('<think>').at(-1);
  return reasoning.trim() === '' && /[^\n]/.test(reasoning);
}
function message() {
  const role = pick(['user', 'user', 'assistant', 'assistant', 'tool', 'system']);
  if (role === 'tool') {
    return {role, content: chance(70) ? text() : many(3, () => (chance(50) ? {output: text()} : text()))};
  }
  const out = {role, content: content()};
  if (role === 'assistant' && blankReasoning(out.content)) out.content = 'plain';
  if (role === 'assistant') {
    if (chance(40)) out.reasoning_content = chance(80) ? text() : null;
    if (chance(40)) out.tool_calls = many(3, call);
  }
  return out;
}
function conversation() {
  const template_args = {};
  if (chance(50)) template_args.enable_thinking = chance(50);
  if (chance(50)) template_args.clear_thinking = chance(50);
  return {
    messages: Array.from({length: 1 + random(7)}, message),
    tools: chance(50) ? many(3, tool) : [],
    template_args,
    add_generation_prompt: chance(80),
  };
}

// What the engine does before it renders: null content is empty, arguments given as text are objects.
function prepare(messages) {
  const copy = structuredClone(messages);
  for (const entry of copy) {
    if (entry.content === null) entry.content = '';
    for (const item of entry.tool_calls ?? []) {
      const inner = item.function ?? item;
      if (typeof inner.arguments === 'string') inner.arguments = JSON.parse(inner.arguments);
    }
  }
  return copy;
}

for (let i = 0; i < Number(count); ++i) {
  const made = conversation();
  const expected = template.render({
    messages: prepare(made.messages),
    tools: made.tools.length > 0 ? made.tools : null,
    add_generation_prompt: made.add_generation_prompt,
    ...made.template_args,
  });
  console.log(JSON.stringify({conversation: made, expected}));
}
