// A provider that speaks OpenAI's and Anthropic's dialects, as strictly as they do.
//
//     node mock_dialects.mjs RECORD
//
// Prints its port. RECORD gets a line of JSON for each request: {path, headers, body}.
// It answers 'Hello w\u00f6rld!', thinking first where it was told to, or, where there
// are tools and no results yet, with two calls of the first one. The model's name may
// ask for trouble: 'bad', 'busy', 'mixed' (arguments of both calls in turn), 'broken'
// (an error in the middle of a stream), 'cut' (the end of one).

import http from 'node:http';
import fs from 'node:fs';

const record = process.argv[2];
const pieces = ['Hello', ' w\u00f6', 'rld!'];
const calls = [{ city: 'Paris' }, { city: 'Rome' }].map((input, i) => ({ id: `call_${i}`, input, json: JSON.stringify(input) }));
const usage = { in: 20, cached: 5, out: 7 };

function wrong(condition, message) {
  if (condition) throw Object.assign(new Error(message), { status: 400 });
}

function only(object, ...names) {
  for (const name of Object.keys(object)) wrong(!names.includes(name), `unknown field ${name}`);
}

const openai = {
  check(body) {
    only(body, 'model', 'messages', 'stream', 'stream_options', 'max_tokens', 'max_completion_tokens', 'temperature', 'top_p',
      'stop', 'tools', 'tool_choice', 'parallel_tool_calls', 'response_format', 'reasoning_effort', 'user', 'n', 'seed');
    let open = new Set();
    for (const m of body.messages) {
      if (m.role === 'tool') wrong(!open.delete(m.tool_call_id), 'a result without its call');
      else wrong(open.size, 'a call without its result');
      wrong(!['system', 'developer', 'user', 'assistant', 'tool'].includes(m.role), `role ${m.role}`);
      open = new Set([...open, ...(m.tool_calls ?? []).map(c => (JSON.parse(c.function.arguments), c.id))]);
    }
    wrong(open.size, 'a call without its result');
  },
  uses: body => body.tools && !body.messages.some(m => m.role === 'tool'),
  thinks: body => body.reasoning_effort,
  error: (status, message) => ({ error: { message, type: 'mock', param: null, code: status === 400 ? 'bad' : null } }),
  usage: { prompt_tokens: usage.in, completion_tokens: usage.out, total_tokens: usage.in + usage.out,
    prompt_tokens_details: { cached_tokens: usage.cached } },

  whole(body, uses, thinks) {
    const message = { role: 'assistant', content: uses ? null : pieces.join(''), refusal: null };
    if (thinks) message.reasoning_content = 'Hm.';
    if (uses) message.tool_calls = calls.map(c => ({ id: c.id, type: 'function', function: { name: body.tools[0].function.name, arguments: c.json } }));
    return { id: 'chatcmpl-1', object: 'chat.completion', created: 1, model: body.model,
      choices: [{ index: 0, message, finish_reason: uses ? 'tool_calls' : 'stop' }], usage: this.usage };
  },

  *events(body, uses, thinks) {
    const chunk = (delta, finish_reason = null) => ({ data: JSON.stringify({ id: 'chatcmpl-1', object: 'chat.completion.chunk',
      created: 1, model: body.model, choices: [{ index: 0, delta, finish_reason }], usage: null }) });
    const call = (index, more) => chunk({ tool_calls: [{ index, ...more }] });
    const begin = (c, i) => call(i, { id: c.id, type: 'function', function: { name: body.tools[0].function.name, arguments: '' } });
    const part = (c, i, from, to) => call(i, { function: { arguments: c.json.slice(from, to) } });
    yield chunk({ role: 'assistant', content: '' });
    if (thinks) yield chunk({ reasoning_content: 'Hm.' });
    if (uses && body.model === 'mixed') {
      yield* calls.map(begin);
      for (const [from, to] of [[0, 4], [4, undefined]]) yield* calls.map((c, i) => part(c, i, from, to));
    } else if (uses) {
      for (const [i, c] of calls.entries()) yield* [begin(c, i), part(c, i, 0, 4), part(c, i, 4)];
    } else {
      yield* pieces.map(content => chunk({ content }));
    }
    if (body.model === 'broken') return yield { data: JSON.stringify(this.error(500, 'broken')) };
    if (body.model === 'cut') return;
    yield chunk({}, uses ? 'tool_calls' : 'stop');
    if (body.stream_options?.include_usage)
      yield { data: JSON.stringify({ id: 'chatcmpl-1', object: 'chat.completion.chunk', created: 1, model: body.model, choices: [], usage: this.usage }) };
    yield { data: '[DONE]' };
  },
};

const anthropic = {
  check(body, headers) {
    wrong(!headers['anthropic-version'], 'no anthropic-version');
    wrong(!(body.max_tokens > 0), 'max_tokens');
    only(body, 'model', 'messages', 'max_tokens', 'system', 'stream', 'temperature', 'top_p', 'top_k', 'stop_sequences', 'tools',
      'tool_choice', 'thinking', 'output_config', 'metadata', 'new_field');
    let last = 'assistant', open = new Set();
    for (const m of body.messages) {
      wrong(m.role === last || !['user', 'assistant'].includes(m.role), `role ${m.role} after ${last}`);
      const blocks = typeof m.content === 'string' ? [{ type: 'text', text: m.content }] : m.content;
      wrong(blocks.length === 0, 'an empty message');
      for (const b of blocks) {
        wrong(b.type === 'text' && !b.text, 'an empty text');
        if (b.type === 'tool_result') wrong(!open.delete(b.tool_use_id), 'a result without its call');
        if (b.type === 'tool_use') { wrong(typeof b.input !== 'object', 'input'); open.add(b.id); }
      }
      wrong(m.role === 'user' && open.size, 'a call without its result');
      last = m.role;
    }
  },
  uses: body => body.tools && !body.messages.some(m => m.content.some?.(b => b.type === 'tool_result')),
  thinks: body => body.thinking?.type === 'enabled' || body.output_config?.effort,
  error: (status, message) => ({ type: 'error', error: { type: { 400: 'invalid_request_error', 529: 'overloaded_error' }[status] ?? 'api_error', message } }),
  usage: { input_tokens: usage.in - usage.cached, cache_read_input_tokens: usage.cached, cache_creation_input_tokens: 0, output_tokens: usage.out },

  blocks(body, uses, thinks) {
    return [...(thinks ? [{ type: 'thinking', thinking: 'Hm.', signature: 's' }] : []),
      ...(uses ? calls.map(c => ({ type: 'tool_use', id: c.id, name: body.tools[0].name, input: c.input }))
        : [{ type: 'text', text: pieces.join('') }])];
  },

  whole(body, uses, thinks) {
    return { id: 'msg_1', type: 'message', role: 'assistant', model: body.model, content: this.blocks(body, uses, thinks),
      stop_reason: uses ? 'tool_use' : 'end_turn', stop_sequence: null, usage: this.usage };
  },

  *events(body, uses, thinks) {
    const event = (type, more) => ({ event: type, data: JSON.stringify({ type, ...more }) });
    const delta = (index, d) => event('content_block_delta', { index, delta: d });
    yield event('message_start', { message: { ...this.whole(body), content: [], stop_reason: null, usage: { ...this.usage, output_tokens: 1 } } });
    yield event('ping', {});
    for (const [index, block] of this.blocks(body, uses, thinks).entries()) {
      const empty = { text: { text: '' }, thinking: { thinking: '', signature: '' }, tool_use: { input: {} } }[block.type];
      yield event('content_block_start', { index, content_block: { ...block, ...empty } });
      if (block.type === 'text') yield* pieces.map(text => delta(index, { type: 'text_delta', text }));
      if (block.type === 'thinking') yield* [delta(index, { type: 'thinking_delta', thinking: 'Hm.' }), delta(index, { type: 'signature_delta', signature: 's' })];
      if (block.type === 'tool_use')
        for (const json of ['', JSON.stringify(block.input).slice(0, 4), JSON.stringify(block.input).slice(4)])
          yield delta(index, { type: 'input_json_delta', partial_json: json });
      yield event('content_block_stop', { index });
    }
    if (body.model === 'broken') return yield { event: 'error', data: JSON.stringify(this.error(500, 'broken')) };
    if (body.model === 'cut') return;
    yield event('message_delta', { delta: { stop_reason: uses ? 'tool_use' : 'end_turn', stop_sequence: null }, usage: { output_tokens: usage.out } });
    yield event('message_stop', {});
  },
};

// Endpoints that only answer: what the body says.
const answers = {
  '/v1/embeddings': body => ({ object: 'list', model: body.model, usage: { prompt_tokens: 3, total_tokens: 3 },
    data: [{ object: 'embedding', index: 0, embedding: body.encoding_format === 'base64' ? Buffer.from(new Float32Array([1, 0.5]).buffer).toString('base64') : [1, 0.5] }] }),
  '/v1/moderations': body => ({ id: 'modr-1', model: body.model, results: [{ flagged: body.input === 'bad' }] }),
  '/v1/messages/count_tokens': body => ({ input_tokens: 7 * body.messages.length }),
  '/v1/completions': body => ({ id: 'cmpl-1', object: 'text_completion', created: 1, model: body.model,
    choices: [{ index: 0, text: pieces.join(''), finish_reason: 'stop', logprobs: null }], usage: { prompt_tokens: 2, completion_tokens: 3, total_tokens: 5 } }),
};

function* completion(body) {
  const chunk = (choices, usage) => ({ data: JSON.stringify({ id: 'cmpl-1', object: 'text_completion', created: 1, model: body.model, choices, usage }) });
  for (const text of pieces) yield chunk([{ index: 0, text, finish_reason: null, logprobs: null }], null);
  yield chunk([{ index: 0, text: '', finish_reason: 'stop', logprobs: null }], null);
  if (body.stream_options?.include_usage) yield chunk([], answers['/v1/completions'](body).usage);
  yield { data: '[DONE]' };
}

// Sounds and images: forms in, files out. The prompt may ask for 'cut' (the connection ends early)
// or for a usage.
const tokens = { input_tokens: 50, output_tokens: 1000, total_tokens: 1050 };
const media = {
  '/v1/audio/speech': (body, response) => {
    response.writeHead(200, { 'content-type': 'audio/mpeg' });
    for (const piece of [Buffer.from([0, 255, 13, 10]), Buffer.alloc(100000, 7)]) response.write(piece);
    return body.input === 'cut' ? setTimeout(() => response.destroy(), 50) : response.end();
  },
  '/v1/audio/transcriptions': (body, response) => body.response_format === 'text' ? response.writeHead(200, { 'content-type': 'text/plain; charset=utf-8' }).end('Hello\n')
    : response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify({ text: 'Hello', usage: body.response_format === 'verbose_json' ? { type: 'duration', seconds: 90 } : { type: 'tokens', input_tokens: 14, output_tokens: 4, total_tokens: 18 } })),
  '/v1/images/generations': (body, response) => {
    if (!body.stream) return response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify({ created: 1, data: [{ b64_json: 'aGk=' }], ...body.prompt === 'usage' ? { usage: tokens } : {} }));
    const type = 'image_generation.completed';
    response.writeHead(200, { 'content-type': 'text/event-stream' }).end(`event: ${type}\ndata: ${JSON.stringify({ type, b64_json: 'aGk=', ...body.prompt === 'usage' ? { usage: tokens } : {} })}\n\n`);
  },
};
media['/v1/images/edits'] = media['/v1/images/generations'];

// Files and batches, kept in memory.
const kept = new Map();

function answerKept(request, response, body) {
  const [path, query] = request.url.split('?'), [, , kind, id, what] = path.split('/');
  const send = object => response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(object));
  const prefix = kind === 'files' ? 'file' : 'batch', one = kept.get(id);
  if (request.method === 'POST' && !id) {
    const made = { id: `${prefix}-${kept.size + 1}`, object: prefix, ...body, status: 'validating' };
    kept.set(made.id, made);
    return send(made);
  }
  if (!id) return send({ object: 'list', data: [...kept.values()].filter(k => k.object === prefix), has_more: false, query });
  if (!one) return response.writeHead(404, { 'content-type': 'application/json' }).end(JSON.stringify(openai.error(404, `no ${id}`)));
  if (what === 'content') return response.writeHead(200, { 'content-type': 'application/json' }).end('{"error":{}}\n{}\n');
  if (what === 'cancel') return send({ ...one, status: 'cancelling' });
  if (request.method === 'DELETE') { kept.delete(id); return send({ id, object: prefix, deleted: true }); }
  return send(one);
}

async function answerMedia(request, response) {
  const pieces = [], type = request.headers['content-type'];
  for await (const piece of request) pieces.push(piece);
  const whole = new Response(Buffer.concat(pieces), { headers: { 'content-type': type } }), body = {};
  if (!pieces.length) ;
  else if (type === 'application/json') Object.assign(body, await whole.json());
  else for (const [name, value] of await whole.formData())
    body[name] = typeof value === 'string' ? value : { name: value.name, type: value.type, size: value.size };
  fs.appendFileSync(record, JSON.stringify({ path: request.url, headers: request.headers, body }) + '\n');
  if (/^\/v1\/(files|batches)/.test(request.url)) return answerKept(request, response, body);
  if (body.model === 'bad') return response.writeHead(400, { 'content-type': 'application/json' }).end(JSON.stringify(openai.error(400, 'You asked for it.')));
  return media[request.url.split('?')[0]](body, response);
}

const paths = { '/v1/chat/completions': openai, '/v1/messages': anthropic };

http.createServer(async (request, response) => {
  if (media[request.url.split('?')[0]] || /^\/v1\/(files|batches)/.test(request.url)) return answerMedia(request, response);
  let text = '';
  for await (const piece of request.setEncoding('utf8')) text += piece;
  const dialect = paths[request.url], json = { 'content-type': 'application/json' };
  const fail = (status, message) => response.writeHead(status, json).end(JSON.stringify(dialect.error(status, message)));
  const body = JSON.parse(text);
  fs.appendFileSync(record, JSON.stringify({ path: request.url, headers: request.headers, body }) + '\n');
  if (answers[request.url] && !body.stream) return response.writeHead(200, json).end(JSON.stringify(answers[request.url](body)));
  if (answers[request.url]) {
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    for (const e of completion(body)) response.write(`data: ${e.data}\n\n`);
    return response.end();
  }
  try {
    dialect.check(body, request.headers);
  } catch (e) {
    return fail(400, e.message);
  }
  if (body.model === 'bad') return fail(400, 'You asked for it.');
  if (body.model === 'busy') return fail(dialect === openai ? 503 : 529, 'busy');
  const uses = dialect.uses(body), thinks = dialect.thinks(body);
  if (!body.stream) return response.writeHead(200, json).end(JSON.stringify(dialect.whole(body, uses, thinks)));
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  for (const e of dialect.events(body, uses, thinks)) response.write((e.event ? `event: ${e.event}\n` : '') + `data: ${e.data}\n\n`);
  response.end();
}).listen(0, '127.0.0.1', function () { console.log(this.address().port); });
