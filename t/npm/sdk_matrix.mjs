// Both official SDKs against models behind providers of both dialects:
//     node sdk_matrix.mjs ORIGIN
// Prints TAP. A model's name is PROVIDER, or PROVIDER-KIND, see mock_dialects.mjs.

import OpenAI from 'openai';
import Anthropic from '@anthropic-ai/sdk';

const origin = process.argv[2];
const options = { apiKey: 'none', maxRetries: 0, timeout: 20000 };
const openai = new OpenAI({ ...options, baseURL: `${origin}/v1` });
const anthropic = new Anthropic({ ...options, baseURL: origin });
const schema = { type: 'object', properties: { city: { type: 'string' } } };
const text = 'Hello w\u00f6rld!', cities = [{ city: 'Paris' }, { city: 'Rome' }];
let count = 0;

function same(got, expected, name) {
  const [a, b] = [JSON.stringify(got), JSON.stringify(expected)];
  console.log(`${a === b ? 'ok' : 'not ok'} ${++count} - ${name}` + (a === b ? '' : `: ${a}, not ${b}`));
}

async function error(promise) {
  try { return await promise; } catch (e) { return e; }
}

for (const provider of ['openai', 'anthropic']) {
  // OpenAI's client
  const chat = { model: provider, messages: [{ role: 'system', content: 'Be short.' }, { role: 'user', content: 'Hi' }] };
  const tools = [{ type: 'function', function: { name: 'weather', parameters: schema } }];
  for (const stream of [false, true]) {
    const ask = more => stream ? openai.chat.completions.stream({ ...chat, ...more, stream_options: { include_usage: true } }).finalChatCompletion()
      : openai.chat.completions.create({ ...chat, ...more });
    const name = `openai SDK, ${provider}, ${stream ? 'stream' : 'whole'}`;

    let c = await ask({});
    same(c.choices[0].message.content, text, `${name}: text`);
    same(c.choices[0].finish_reason, 'stop', `${name}: its end`);
    same([c.usage.prompt_tokens, c.usage.completion_tokens, c.usage.prompt_tokens_details.cached_tokens], [20, 7, 5], `${name}: usage`);
    c = await ask({ reasoning_effort: 'high' });
    same(c.choices[0].message.reasoning_content, 'Hm.', `${name}: thoughts`);

    c = await ask({ tools });
    const message = c.choices[0].message;
    same(message.tool_calls.map(t => JSON.parse(t.function.arguments)), cities, `${name}: parallel calls`);
    same([message.tool_calls[0].function.name, c.choices[0].finish_reason], ['weather', 'tool_calls'], `${name}: their name and end`);
    c = await ask({ tools, messages: [...chat.messages, { role: 'assistant', content: null, tool_calls: message.tool_calls.map(({ id, type, function: { name, arguments: a } }) => ({ id, type, function: { name, arguments: a } })) },
      ...message.tool_calls.map(t => ({ role: 'tool', tool_call_id: t.id, content: 'sunny' }))] });
    same(c.choices[0].message.content, text, `${name}: results of tools`);
  }

  // its Responses API
  const ask = { model: provider, instructions: 'Be short.', input: 'Hi', store: false };
  const rtools = [{ type: 'function', name: 'weather', parameters: schema, strict: false }];
  for (const stream of [false, true]) {
    const respond = async more => {
      if (!stream) return openai.responses.create({ ...ask, ...more });
      const running = openai.responses.stream({ ...ask, ...more });
      let next = 0, told = '', done = '';
      for await (const e of running) {
        if (e.sequence_number !== next++) throw new Error(`event ${e.sequence_number} is not ${next - 1}`);
        if (e.type === 'response.output_text.delta') told += e.delta;
        if (e.type === 'response.output_text.done') done += e.text;
      }
      const r = await running.finalResponse();
      if (told !== done || told !== r.output_text) throw new Error(`${told}, ${done}, ${r.output_text}`);
      return r;
    };
    const name = `openai SDK, responses, ${provider}, ${stream ? 'stream' : 'whole'}`;

    let r = await respond({});
    same(r.output_text, text, `${name}: text`);
    same([r.status, r.model, r.instructions, r.store], ['completed', 'plain', 'Be short.', false], `${name}: the response`);
    same([r.usage.input_tokens, r.usage.output_tokens, r.usage.input_tokens_details.cached_tokens], [20, 7, 5], `${name}: usage`);
    r = await respond({ reasoning: { effort: 'high' } });
    same(r.output.map(i => i.type), ['reasoning', 'message'], `${name}: thoughts`);
    same(r.output[0].summary, [{ type: 'summary_text', text: 'Hm.' }], `${name}: what it thought`);
    r = await respond({ tools: rtools });
    same(r.output.map(i => [i.type, i.name, JSON.parse(i.arguments)]), cities.map(c => ['function_call', 'weather', c]), `${name}: parallel calls`);
    const turn = r.output.map(({ parsed_arguments, ...call }) => call);
    r = await respond({ tools: rtools, input: [{ role: 'user', content: 'Hi' }, ...turn,
      ...turn.map(c => ({ type: 'function_call_output', call_id: c.call_id, output: 'sunny' })), { role: 'user', content: [{ type: 'input_text', text: 'So?' }] }] });
    same(r.output_text, text, `${name}: results of tools`);
    if (provider === 'openai') {
      r = await respond({ model: 'openai-mixed', tools: rtools });
      same(r.output.map(i => JSON.parse(i.arguments)), cities, `${name}: calls in turn`);
    }
  }

  // Anthropic's client
  const messages = { model: provider, max_tokens: 50, system: 'Be short.', messages: [{ role: 'user', content: 'Hi' }] };
  const atools = [{ name: 'weather', input_schema: schema }];
  for (const stream of [false, true]) {
    const ask = more => stream ? anthropic.messages.stream({ ...messages, ...more }).finalMessage() : anthropic.messages.create({ ...messages, ...more });
    const name = `anthropic SDK, ${provider}, ${stream ? 'stream' : 'whole'}`;

    let m = await ask({});
    same(m.content.map(b => [b.type, b.text]), [['text', text]], `${name}: text`);
    same([m.type, m.role, m.stop_reason], ['message', 'assistant', 'end_turn'], `${name}: its end`);
    same([m.usage.input_tokens, m.usage.cache_read_input_tokens, m.usage.output_tokens], [15, 5, 7], `${name}: usage`);
    m = await ask({ max_tokens: 5000, thinking: { type: 'enabled', budget_tokens: 2000 } });
    same(m.content.map(b => b.type), ['thinking', 'text'], `${name}: thoughts`);
    same(m.content[0].thinking, 'Hm.', `${name}: what it thought`);

    for (const kind of ['', ...(provider === 'openai' ? ['-mixed'] : [])]) {
      m = await ask({ model: provider + kind, tools: atools });
      same(m.content.map(b => [b.type, b.name, b.input]), cities.map(c => ['tool_use', 'weather', c]), `${name}${kind}: parallel calls`);
      same(m.stop_reason, 'tool_use', `${name}${kind}: their end`);
    }
    m = await ask({ tools: atools, messages: [...messages.messages, { role: 'assistant', content: m.content },
      { role: 'user', content: [...m.content.map(b => ({ type: 'tool_result', tool_use_id: b.id, content: 'sunny' })), { type: 'text', text: 'So?' }] }] });
    same(m.content[0].text, text, `${name}: results of tools`);
  }

  // errors
  let e = await error(openai.chat.completions.create({ ...chat, model: `${provider}-bad` }));
  same([e instanceof OpenAI.BadRequestError, e.error?.message], [true, 'You asked for it.'], `openai SDK, ${provider}: a refusal`);
  e = await error(anthropic.messages.create({ ...messages, model: `${provider}-bad` }));
  same([e instanceof Anthropic.BadRequestError, e.error?.error?.message, e.error?.error?.type], [true, 'You asked for it.', 'invalid_request_error'],
    `anthropic SDK, ${provider}: a refusal`);
  e = await error(openai.chat.completions.create({ ...chat, model: `${provider}-busy` }));
  same([e instanceof OpenAI.InternalServerError, e.status], [true, provider === 'openai' ? 502 : 503], `openai SDK, ${provider}: too busy`);
  e = await error(anthropic.messages.create({ ...messages, model: `${provider}-busy` }));
  same([e instanceof Anthropic.InternalServerError, e.error?.type], [true, 'error'], `anthropic SDK, ${provider}: too busy`);
  for (const kind of ['broken', 'cut']) {
    e = await error(openai.chat.completions.stream({ ...chat, model: `${provider}-${kind}` }).finalChatCompletion());
    same(e instanceof OpenAI.OpenAIError, true, `openai SDK, ${provider}: a ${kind} stream`);
    e = await error(openai.responses.stream({ ...ask, model: `${provider}-${kind}` }).finalResponse());
    same(e instanceof OpenAI.OpenAIError, true, `openai SDK, responses, ${provider}: a ${kind} stream`);
    e = await error(anthropic.messages.stream({ ...messages, model: `${provider}-${kind}` }).finalMessage());
    same(e instanceof Anthropic.AnthropicError, true, `anthropic SDK, ${provider}: a ${kind} stream`);
  }
}

const kept = await error(openai.responses.create({ model: 'openai', input: 'Hi', previous_response_id: 'resp_1' }));
same([kept instanceof OpenAI.BadRequestError, kept.param], [true, 'previous_response_id'], 'openai SDK, responses: what was never kept');

// endpoints that pass
const v = await openai.embeddings.create({ model: 'openai', input: 'x' });
same([...v.data[0].embedding], [1, 0.5], 'openai SDK: an embedding, which it asks for in base64');
const t = await openai.completions.create({ model: 'openai', prompt: 'x' });
same([t.choices[0].text, t.usage.total_tokens], [text, 5], 'openai SDK: a completion');
let said = '', counted = 0;
for await (const chunk of await openai.completions.create({ model: 'openai', prompt: 'x', stream: true })) {
  said += chunk.choices[0]?.text ?? '';
  if ('usage' in chunk) counted++;
}
same([said, counted], [text, 0], 'openai SDK: a completion as a stream, without usage that nobody asked for');
same((await openai.moderations.create({ model: 'openai', input: 'bad' })).results[0].flagged, true, 'openai SDK: a moderation');
same((await anthropic.messages.countTokens({ model: 'anthropic', messages: [{ role: 'user', content: 'Hi' }] })).input_tokens, 7, 'anthropic SDK: counted tokens');

let e = await error(openai.embeddings.create({ model: 'anthropic', input: 'x' }));
same([e instanceof OpenAI.BadRequestError, e.code, e.param], [true, 'unsupported_endpoint', 'model'], 'openai SDK: a provider without embeddings');
e = await error(anthropic.messages.countTokens({ model: 'openai', messages: [{ role: 'user', content: 'Hi' }] }));
same(e instanceof Anthropic.BadRequestError, true, 'anthropic SDK: a provider that does not count');
e = await error(openai.embeddings.create({ input: 'x' }));
same([e instanceof OpenAI.BadRequestError, e.param], [true, 'model'], 'openai SDK: an embedding by no model');
e = await error(anthropic.messages.create({ model: 'none', max_tokens: 5, messages: [{ role: 'user', content: 'Hi' }] }));
same([e instanceof Anthropic.NotFoundError, e.error?.error?.type], [true, 'not_found_error'], 'anthropic SDK: no such model');
e = await error(anthropic.messages.create({ model: 'openai', messages: [{ role: 'user', content: 'Hi' }] }));
same([e instanceof Anthropic.BadRequestError, /max_tokens/.test(e.message)], [true, true], 'anthropic SDK: no max_tokens');

console.log(`1..${count}`);
