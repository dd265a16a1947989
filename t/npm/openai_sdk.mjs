// The official SDK against a server: node openai_sdk.mjs BASE_URL DIALECT.
// Prints TAP. DIALECT openai: a mock provider is behind it, whose models do what
// their names say. DIALECT local: the demo model.

import OpenAI from 'openai';

const [baseURL, dialect] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: 'none', maxRetries: 0, timeout: 20000 });
const model = dialect === 'local' ? 'demo' : 'mock-chat';
const messages = [{ role: 'user', content: 'What is aiq?' }];
let count = 0;

function ok(condition, name) {
  console.log(`${condition ? 'ok' : 'not ok'} ${++count} - ${dialect}: ${name}`);
}

async function fails(promise, kind, name, more = {}) {
  try {
    await promise;
    ok(false, `${name}: is refused`);
  } catch (e) {
    ok(e instanceof kind, `${name}: ${kind.name}` + (e instanceof kind ? '' : `, not ${e}`));
    for (const [field, value] of Object.entries(more)) {
      ok(e[field] === value, `${name}: ${field} is ${value}` + (e[field] === value ? '' : `, not ${e[field]}`));
    }
  }
}

// models
const ids = [];
for await (const m of client.models.list()) ids.push(m.id);
ok(ids.includes(model), 'the list of models');
ok((await client.models.retrieve(model)).id === model, 'one model');
await fails(client.models.retrieve('none'), OpenAI.NotFoundError, 'no such model', { status: 404, code: 'model_not_found' });

// a chat
const chat = await client.chat.completions.create({ model, messages, temperature: 0 });
ok(chat.object === 'chat.completion' && chat.id.startsWith('chatcmpl-'), 'a completion');
ok(chat.choices.length === 1 && chat.choices[0].message.role === 'assistant', 'with one choice');
ok(chat.choices[0].message.content.length > 0 && chat.choices[0].finish_reason === 'stop', 'that has an end');
ok(chat.usage.total_tokens === chat.usage.prompt_tokens + chat.usage.completion_tokens, 'and its usage');
ok(/^[A-Za-z0-9._-]+$/.test(chat._request_id), 'and a request id');

// a stream
let text = '', finish = null, usage = 0, chunks = 0, role;
const streaming = dialect === 'local' ? model : 'mock-stream-20x1ms';
for await (const chunk of await client.chat.completions.create({ model: streaming, messages, temperature: 0, stream: true })) {
  chunks++;
  role ??= chunk.choices[0]?.delta.role;
  text += chunk.choices[0]?.delta.content ?? '';
  finish = chunk.choices[0]?.finish_reason ?? finish;
  if ('usage' in chunk) usage++;
}
// of a local model, whatever it has said by then is one chunk
ok(role === 'assistant' && chunks > (dialect === 'local' ? 2 : 3) && finish === 'stop', 'a stream');
ok(usage === 0, 'without usage that nobody asked for');
if (dialect === 'local') ok(text === chat.choices[0].message.content, 'that says the same');

let last;
for await (const chunk of await client.chat.completions.create({
  model: streaming, messages, stream: true, max_tokens: 5, stream_options: { include_usage: true } })) last = chunk;
ok(last.choices.length === 0 && last.usage.completion_tokens > 0, 'a stream with usage');

const whole = await client.chat.completions.stream({ model: streaming, messages, temperature: 0 }).finalChatCompletion();
ok(whole.choices[0].message.content === text, "the SDK's stream helper");

// leaving
const endless = dialect === 'local' ? model : 'mock-stream-100000x20ms';
const controller = new AbortController();
let seen = 0;
try {
  for await (const chunk of await client.chat.completions.create(
    { model: endless, messages: [...messages], stream: true }, { signal: controller.signal })) {
    if (++seen === 2) controller.abort();
  }
  ok(dialect === 'local' || seen >= 2, 'abort ends a stream');
} catch (e) {
  ok(e instanceof OpenAI.APIUserAbortError, 'abort ends a stream');
}

// errors
await fails(client.chat.completions.create({ model, messages: [] }), OpenAI.BadRequestError, 'no messages',
  { status: 400, param: 'messages', code: 'invalid_value', type: 'invalid_request_error' });
await fails(client.chat.completions.create({ model, messages: [{ role: 'god', content: 'x' }] }), OpenAI.BadRequestError,
  'an unknown role', { param: 'messages[0].role' });
await fails(client.chat.completions.create({ model: 'none', messages }), OpenAI.NotFoundError, 'an unknown model',
  { code: 'model_not_found', param: 'model' });
await fails(client.post('/nothing', { body: {} }), OpenAI.NotFoundError, 'an unknown path');

if (dialect === 'local') {
  await fails(client.chat.completions.create({ model, messages, n: 16, max_tokens: 400, temperature: 2 }, { timeout: 1 }),
    OpenAI.APIConnectionTimeoutError, 'a time-out');
  const two = await client.chat.completions.create({ model, messages, n: 2, logprobs: true, top_logprobs: 2 });
  ok(two.choices.length === 2 && two.choices.every((c) => c.logprobs.content.map((t) => t.token).join('') === c.message.content
    && c.logprobs.content.every((t) => t.top_logprobs.length === 2)), 'two answers, with log-probabilities');
  const parsed = await client.chat.completions.parse({ model, messages, max_tokens: 200, response_format: { type: 'json_schema',
    json_schema: { name: 'x', strict: true, schema: { type: 'object', properties: { yes: { type: 'boolean' } }, required: ['yes'],
      additionalProperties: false } } } });
  ok(typeof JSON.parse(parsed.choices[0].message.content).yes === 'boolean', 'an answer that meets a schema');
  await fails(client.chat.completions.create({ model, messages, n: 17 }), OpenAI.BadRequestError, 'too many answers',
    { param: 'n', code: 'invalid_value' });
  await fails(client.chat.completions.create({ model, messages: [{ role: 'user', content: 'x '.repeat(5000) }] }),
    OpenAI.BadRequestError, 'a long prompt', { code: 'context_length_exceeded', param: 'messages' });
  const short = await client.chat.completions.create({ model, messages, max_completion_tokens: 2 });
  ok(short.choices[0].finish_reason === 'length' && short.usage.completion_tokens === 2, 'max_completion_tokens');
  const stop = await client.chat.completions.create({ model, messages, temperature: 0, stop: text.slice(5, 9) });
  ok(stop.choices[0].message.content === text.slice(0, text.indexOf(text.slice(5, 9))), 'stop');
} else {
  await fails(client.chat.completions.create({ model: 'mock-hang-headers', messages }, { timeout: 300 }),
    OpenAI.APIConnectionTimeoutError, 'a time-out');
  await fails(client.chat.completions.create({ model: 'mock-429', messages }), OpenAI.RateLimitError, 'a rate limit',
    { status: 429, code: 'rate_limit_exceeded' });
  await fails(client.chat.completions.create({ model: 'mock-401', messages }), OpenAI.InternalServerError,
    "a key that the provider refuses is not the client's", { status: 502, code: 'provider_auth_failed' });
  await fails(client.chat.completions.create({ model: 'mock-500-html', messages, stream: true }),
    OpenAI.InternalServerError, 'a broken provider', { status: 502, code: 'provider_error' });
  await fails((async () => {
    for await (const chunk of await client.chat.completions.create({ model: 'mock-reset-mid', messages, stream: true })) chunk;
  })(), OpenAI.APIError, 'a stream that breaks off', { code: 'provider_error' });
}

console.log(`1..${count}`);
