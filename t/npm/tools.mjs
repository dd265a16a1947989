// The official SDKs and a local model that calls tools: node tools.mjs ORIGIN. Prints TAP.
// The schemas leave little to say, for the demo model says anything.

import OpenAI from 'openai';
import Anthropic from '@anthropic-ai/sdk';

const origin = process.argv[2];
const options = { apiKey: 'none', maxRetries: 0, timeout: 20000 };
const openai = new OpenAI({ ...options, baseURL: `${origin}/v1` });
const anthropic = new Anthropic({ ...options, baseURL: origin });
const schema = { type: 'object', properties: { on: { type: 'boolean' } }, required: ['on'], additionalProperties: false };
let count = 0;

function ok(condition, name, got) {
  console.log(`${condition ? 'ok' : 'not ok'} ${++count} - ${name}` + (condition ? '' : `: ${JSON.stringify(got)}`));
}

async function error(promise) {
  try { return await promise; } catch (e) { return e; }
}

for (const stream of [false, true]) {
  const how = stream ? 'stream' : 'whole';

  // chat
  const chat = { model: 'demo', temperature: 0, messages: [{ role: 'user', content: 'Hi' }], parallel_tool_calls: false,
    tools: [{ type: 'function', function: { name: 'switch', parameters: schema, strict: true } }] };
  const talk = body => stream ? openai.chat.completions.stream(body).finalChatCompletion() : openai.chat.completions.create(body);
  let r = await talk({ ...chat, tool_choice: 'required' });
  const { id, type, function: f } = r.choices[0].message.tool_calls[0];
  ok(f.name === 'switch' && typeof JSON.parse(f.arguments).on === 'boolean', `chat, ${how}: a call`, r);
  ok(r.choices[0].finish_reason === 'tool_calls', `chat, ${how}: its end`, r);
  // without strict: the SDK throws where such an answer is cut off
  r = await talk({ ...chat, tools: [{ type: 'function', function: { name: 'switch', parameters: schema } }], tool_choice: 'none', max_tokens: 20, messages: [...chat.messages,
    { role: 'assistant', content: null, tool_calls: [{ id, type, function: { name: f.name, arguments: f.arguments } }] },
    { role: 'tool', tool_call_id: id, content: 'done' }] });
  ok(r.choices[0].message.content && !r.choices[0].message.tool_calls?.length, `chat, ${how}: its result`, r);

  // responses
  const ask = { model: 'demo', temperature: 0, input: 'Hi', store: false, parallel_tool_calls: false,
    tools: [{ type: 'function', name: 'switch', parameters: schema, strict: true }] };
  const respond = body => stream ? openai.responses.stream(body).finalResponse() : openai.responses.create(body);
  r = await respond({ ...ask, tool_choice: { type: 'function', name: 'switch' } });
  const { parsed_arguments, ...call } = r.output[0];
  ok(call.type === 'function_call' && typeof JSON.parse(call.arguments).on === 'boolean', `responses, ${how}: a call`, r);
  r = await respond({ ...ask, tool_choice: 'none', max_output_tokens: 20, input: [{ role: 'user', content: 'Hi' }, { ...call, parsed_arguments },
    { type: 'function_call_output', call_id: call.call_id, output: 'done' }] });
  ok(r.output_text, `responses, ${how}: its result`, r);

  // messages
  const messages = { model: 'demo', temperature: 0, max_tokens: 100, messages: [{ role: 'user', content: 'Hi' }], tools: [{ name: 'switch', input_schema: schema }] };
  const say = body => stream ? anthropic.messages.stream(body).finalMessage() : anthropic.messages.create(body);
  r = await say({ ...messages, tool_choice: { type: 'any', disable_parallel_tool_use: true } });
  ok(r.content[0].type === 'tool_use' && r.content[0].name === 'switch' && typeof r.content[0].input.on === 'boolean', `messages, ${how}: a call`, r);
  ok(r.content.length === 1 && r.stop_reason === 'tool_use', `messages, ${how}: its end`, r);
  r = await say({ ...messages, max_tokens: 20, messages: [...messages.messages, { role: 'assistant', content: r.content },
    { role: 'user', content: [{ type: 'tool_result', tool_use_id: r.content[0].id, content: 'done' }] }] });
  ok(r.content.length > 0, `messages, ${how}: its result`, r);

  // a stop sequence
  const said = { model: 'demo', temperature: 0, max_tokens: 100, messages: [{ role: 'user', content: 'What is aiq?' }] };
  const stop = (await say(said)).content[0].text.slice(6, 10);
  r = await say({ ...said, stop_sequences: ['never', stop] });
  ok(r.content[0].text.length <= 6 && r.stop_reason === 'stop_sequence' && r.stop_sequence === stop, `messages, ${how}: a stop sequence`, r);

  // an answer that the client begins
  const whole = (await say(said)).content[0].text, begun = whole.slice(0, whole.indexOf(' ', 6));
  r = await say({ ...said, messages: [...said.messages, { role: 'assistant', content: begun }] });
  ok(begun + r.content[0].text === whole, `messages, ${how}: an answer that goes on`, [r, whole]);

  // a call that has no room is text in a whole answer
  r = await error(say({ ...messages, max_tokens: 12, tool_choice: { type: 'any' } }));
  ok(r.stop_reason === 'max_tokens', `messages, ${how}: a call that is cut`, r);
}

// thoughts
let r = await openai.chat.completions.create({ model: 'thinks', messages: [{ role: 'user', content: 'Hi' }], max_tokens: 20 });
ok(r.choices[0].message.reasoning_content && r.choices[0].message.content === null, 'chat: a thought', r);
r = await anthropic.messages.stream({ model: 'thinks', max_tokens: 20, messages: [{ role: 'user', content: 'Hi' }] }).finalMessage();
ok(r.content[0].type === 'thinking' && r.content[0].thinking, 'messages: a thought', r);
r = await openai.responses.create({ model: 'thinks', input: 'Hi', store: false, max_output_tokens: 20 });
ok(r.output[0].type === 'reasoning', 'responses: a thought', r);

// tokens that are counted before they are sent
const talk = { model: 'demo', system: 'Be short.', messages: [{ role: 'user', content: 'Hi' }], tools: [{ name: 'switch', input_schema: schema }] };
r = await anthropic.messages.countTokens(talk);
const { usage } = await anthropic.messages.create({ ...talk, max_tokens: 1 });
ok(r.input_tokens === usage.input_tokens + usage.cache_read_input_tokens, 'messages: as many tokens as were counted', [r, usage]);

// a stream says at once how long its prompt is
let start;
r = await anthropic.messages.stream({ ...talk, max_tokens: 5 }).on('streamEvent', e => { start ??= { ...e.message.usage }; }).finalMessage();
ok(start.input_tokens === r.usage.input_tokens && start.cache_read_input_tokens === r.usage.cache_read_input_tokens && start.output_tokens === 0 && r.usage.output_tokens > 0, 'messages: what went in, at the start', [start, r.usage]);

// what was refused before
r = await openai.chat.completions.create({ model: 'demo', max_tokens: 5, messages: [{ role: 'user', content: 'Hi' },
  { role: 'assistant', content: [{ type: 'refusal', refusal: 'No.' }] }, { role: 'user', content: 'Why?' }] });
ok(r.choices[0].message.content, 'chat: a refusal in an earlier answer', r);

// the models that there are
const models = [];
for await (const m of anthropic.models.list()) models.push(m);
ok(models.map(m => m.display_name).join() === 'demo,thinks' && models.every(m => m.type === 'model' && !isNaN(Date.parse(m.created_at))), 'messages: the models', models);
r = await anthropic.models.retrieve('demo');
ok(JSON.stringify(r) === JSON.stringify(models[0]), 'messages: one model', r);
r = await error(anthropic.models.retrieve('none'));
ok(r instanceof Anthropic.NotFoundError && /'none' does not exist/.test(r.message), 'messages: no such model', r);

// what is wrong, in words of the client's own dialect
r = await error(anthropic.messages.create({ model: 'demo', max_tokens: 9, messages: [{ role: 'user', content: 'Hi' }], tools: [{ name: 'a b', input_schema: schema }] }));
ok(r instanceof Anthropic.BadRequestError && r.error.error.type === 'invalid_request_error' && /Tool 0 must have a name/.test(r.message), 'messages: a bad name', r);
r = await error(anthropic.messages.create({ model: 'demo', max_tokens: 9, messages: [{ role: 'user', content: [{ type: 'tool_result', tool_use_id: 'x', content: '1' }] }] }));
ok(r instanceof Anthropic.BadRequestError && /a call that was not made/.test(r.message), 'messages: a result of nothing', r);
r = await error(openai.responses.create({ model: 'demo', input: [{ type: 'function_call_output', call_id: 'x', output: '1' }], store: false }));
ok(r instanceof OpenAI.BadRequestError && /a call that was not made/.test(r.message), 'responses: a result of nothing', r);

console.log(`1..${count}`);
