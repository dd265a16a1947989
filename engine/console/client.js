/*
 * Streams of aiq, for browsers and for Node: asks a model and gives the answer's events, each
 * once and in order, whatever becomes of the connection.
 *
 *     import { Client } from './client.js';
 *
 *     const client = new Client('https://api.example.com', { token: () => session.token });
 *     for await (const event of client.chat({ model: 'gpt-4o', messages }))
 *         if (event.data !== '[DONE]') show(JSON.parse(event.data));
 *
 * An event is { seq, type, data }: its number in the stream, from 1; its name, 'message' where
 * it has none; and its text.
 *
 * A connection that is cut, or says nothing for `silence` ms, is made anew after the last event
 * that came, each wait up to twice as long as the one before, at random so that a crowd does
 * not come back at once. A way that fails twice without an event gives way to the next one: some
 * proxies hold back what they should pass on, and a question that is answered and done gets
 * through any of them.
 */

const WAYS = { sse: readEvents, poll: ask };

const SILENCE = 45_000; /* ms; the server says something every 15 s */
const WAIT_FIRST = 250, WAIT_MOST = 10_000; /* ms */
const POLL = 20; /* s that the server may wait for news */

const LAST = ['message_stop', 'error', 'response.completed', 'response.failed', 'response.incomplete'];
const END = Symbol('end'); /* of a stream whose events do not tell */

/* What the server says is wrong. It does not help to try again, unless `retryable`. */
export class StreamError extends Error {
  constructor(status, code, message, retryAfter) {
    super(message);
    this.name = 'StreamError';
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter; /* s; NaN where nothing was said */
  }

  get retryable() {
    return [429, 502, 503, 504].includes(this.status);
  }
}

/* The connection is gone; the stream may well go on. */
class Lost extends Error {}

export class Client {
  #base;
  #options;

  /*
   * base: where /v1/ is. Options:
   *     token     the bearer token, or a function that gives the present one
   *     headers   sent with every request
   *     ways      what to try, in this order: ['sse', 'poll']
   *     tries     how often in a row a stream is asked for without an event before that is
   *               an error: 20
   *     silence   ms
   *     fetch     another than the global one
   */
  constructor(base, options = {}) {
    this.#base = String(base).replace(/\/+$/, '');
    this.#options = { headers: {}, ways: Object.keys(WAYS), tries: 20, silence: SILENCE,
                      fetch: globalThis.fetch.bind(globalThis), ...options };
    for (const way of this.#options.ways)
      if (!Object.hasOwn(WAYS, way)) throw new TypeError(`no such way to read a stream: ${way}`);
  }

  /*
   * The events of the answer to a request for /v1/chat/completions, or for another `path` whose
   * answers are streams. The question itself is asked once: whoever does not hear from the
   * server at all cannot know whether he will be billed for it.
   */
  async *chat(request, { signal, path = '/v1/chat/completions', onstream } = {}) {
    const reply = await this.#fetch(path, { method: 'POST', signal, accept: 'text/event-stream',
                                            body: JSON.stringify({ ...request, stream: true }) });
    const id = reply.response.headers.get('x-aiq-stream');
    const place = { id, seq: 0, ended: false };

    if (id) onstream?.(id);
    try {
      yield* track(place, eventsOf(reply));
    } catch (error) {
      if (!(error instanceof Lost) || !(id || place.ended)) throw error;
    }
    if (id && !place.ended) yield* this.#follow(place, signal);
  }

  /* The events of a stream after number `after`, to its end. */
  async *follow(id, { after = 0, signal } = {}) {
    yield* this.#follow({ id, seq: after, ended: false }, signal);
  }

  async *#follow(place, signal) {
    const ways = [...this.#options.ways];
    let tries = 0, failures = 0;

    while (!place.ended) {
      const before = place.seq;
      let wait = NaN;
      try {
        const read = WAYS[ways[0]](this.#fetch.bind(this), place, signal);
        yield* track(place, read);
        failures = tries = 0;
        continue; /* a poll: the server has waited already */
      } catch (error) {
        if (place.ended) return;
        if (signal?.aborted) throw signal.reason;
        if (!(error instanceof Lost || error.retryable)) throw error;
        if (place.seq > before) failures = tries = 0;
        if (++tries >= this.#options.tries) throw error;
        wait = error.retryAfter;
      }
      if (++failures >= 2 && ways.length > 1) {
        ways.shift();
        failures = 0;
      }
      await pause(wait > 0 ? wait * 1000 : backoff(tries), signal);
    }
  }

  /* The response, and its body as text bit by bit; an error reply is thrown. */
  async #fetch(path, { method = 'GET', accept, body, headers = {}, signal }) {
    const { token, silence } = this.#options;
    const watch = new Watch(silence, signal);
    const bearer = typeof token === 'function' ? await token() : token;
    let response;

    try {
      response = await this.#options.fetch(this.#base + path, {
        method, body, signal: watch.signal, cache: 'no-store',
        headers: { ...this.#options.headers, accept,
                   ...(body !== undefined && { 'content-type': 'application/json' }),
                   ...(bearer && { authorization: `Bearer ${bearer}` }), ...headers },
      });
    } catch (error) {
      watch.end();
      throw signal?.aborted ? signal.reason : new Lost(error.message, { cause: error });
    }
    const reply = { response, text: textOf(response.body, watch, signal) };
    if (!response.ok) throw await failure(reply);
    return reply;
  }
}

/* Moves the place on with each event; one that has come before is not given again. What
 * follows the last one is read, too: its connection is then of use for another request. */
async function* track(place, events) {
  for await (const event of events) {
    place.ended ||= event === END || isLast(event);
    if (event === END || (event.seq && event.seq <= place.seq)) continue;
    place.seq = event.seq || place.seq;
    yield event;
  }
}

/* Of OpenAI's dialects and Anthropic's. */
function isLast({ type, data }) {
  return data === '[DONE]' || LAST.includes(type);
}

/* Server-sent events. A body that is whole may still be a proxy's that gave up: whether the
 * stream is over, only the server can say. */
async function* readEvents(fetch, place, signal) {
  const path = streamPath(place.id);
  const reply = await fetch(path, { accept: 'text/event-stream', signal,
                                    headers: place.seq ? { 'last-event-id': String(place.seq) } : {} });

  yield* eventsOf(reply);
  if (!place.ended) yield* ask(fetch, place, signal, 0);
  if (!place.ended) throw new Lost('the connection ended before the stream');
}

/* Questions, each answered with what has come since the last one. */
async function* ask(fetch, place, signal, wait = POLL) {
  const path = `${streamPath(place.id)}?after=${place.seq}&wait=${wait}s`;
  const { text } = await fetch(path, { accept: 'application/json', signal });
  let body = '';

  for await (const piece of text) body += piece;
  const { data, done } = answerOf(body);
  yield* data;
  if (done) yield END;
}

/* Chromium does not always tell a body that was cut from a whole one. */
function answerOf(body) {
  try {
    return JSON.parse(body);
  } catch (error) {
    throw new Lost(error.message, { cause: error });
  }
}

function streamPath(id) {
  return `/v1/streams/${encodeURIComponent(id)}`;
}

/* https://html.spec.whatwg.org/multipage/server-sent-events.html, as far as servers of this
 * protocol go: a field is "name: value" or "name:value". An event that is cut is none. */
async function* eventsOf({ text }) {
  let rest = '', event = newEvent();

  for await (const piece of text) {
    const lines = (rest + piece).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      if (line !== '') addField(event, line);
      else {
        if (event.lines.length) yield finished(event);
        event = newEvent();
      }
    }
  }
}

function newEvent() {
  return { seq: 0, type: 'message', lines: [] };
}

function addField(event, line) {
  const colon = line.indexOf(':');
  const name = colon < 0 ? line : line.slice(0, colon);
  const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');

  if (name === 'data') event.lines.push(value);
  else if (name === 'event') event.type = value;
  else if (name === 'id' && /^\d+$/.test(value)) event.seq = Number(value);
}

function finished({ seq, type, lines }) {
  return { seq, type, data: lines.join('\n') };
}

/* The text of a body; Lost where it is cut. */
async function* textOf(body, watch, signal) {
  const decoder = new TextDecoder();
  const reader = body?.getReader();

  try {
    for (;;) {
      const { done, value } = reader ? await reader.read() : { done: true };
      if (done) return;
      watch.heard();
      yield decoder.decode(value, { stream: true });
    }
  } catch (error) {
    throw signal?.aborted ? signal.reason : new Lost(error.message, { cause: error });
  } finally {
    watch.end();
    await reader?.cancel().catch(() => {});
  }
}

async function failure({ response, text }) {
  let body = '';

  for await (const piece of text) body += piece;
  let error = {};
  try {
    error = JSON.parse(body).error ?? {};
  } catch { /* a proxy's own page */ }
  return new StreamError(response.status, error.code ?? error.type ?? 'http_error',
                         error.message ?? `The server answered ${response.status}.`,
                         Number(response.headers.get('retry-after') ?? NaN));
}

/* Aborts a request that is silent for too long, or when its caller wants that. */
class Watch {
  #abort = new AbortController();
  #silence;
  #timer;
  #caller;
  #onabort = () => this.#abort.abort(this.#caller.reason);

  constructor(silence, caller) {
    this.#silence = silence;
    this.#caller = caller;
    if (caller?.aborted) this.#onabort();
    caller?.addEventListener('abort', this.#onabort);
    this.heard();
  }

  get signal() {
    return this.#abort.signal;
  }

  heard() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#abort.abort(new Lost('nothing was heard for too long')),
                             this.#silence);
  }

  end() {
    clearTimeout(this.#timer);
    this.#caller?.removeEventListener('abort', this.#onabort);
  }
}

function backoff(tries) {
  return Math.random() * Math.min(WAIT_MOST, WAIT_FIRST * 2 ** tries);
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', stop);
      resolve();
    }, ms);
    signal?.addEventListener('abort', stop, { once: true });
  });
}
