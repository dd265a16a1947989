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
 * proxies know no WebSockets, some hold back what they should pass on, and a question that is
 * answered and done gets through any of them. All that goes by WebSocket shares one.
 */

const WAYS = { ws: readSocket, sse: readEvents, poll: ask };

const SILENCE = 45_000; /* ms; the server says something every 15 s */
const WAIT_FIRST = 250, WAIT_MOST = 10_000; /* ms */
const POLL = 20; /* s that the server may wait for news */

const CHAT = '/v1/chat/completions';

const LAST = ['message_stop', 'error', 'response.completed', 'response.failed', 'response.incomplete'];
const END = Symbol('end'); /* of a stream whose events do not tell */
const RENEW = 60_000;      /* ms before its token ends that a WebSocket is shown another */
const IDLE = 30_000;       /* ms without anything to read, after which it is closed */
const SOCKETLESS = 60_000; /* ms */

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
  #socket = null; /* or one that is open, or about to be */
  #socketless = 0; /* until when none is tried for a question */

  /*
   * base: where /v1/ is. Options:
   *     token     the bearer token, or a function that gives the present one
   *     headers   sent with every request
   *     ways      what to try, in this order: ['ws', 'sse', 'poll'], the first where there are
   *               WebSockets
   *     socket    where /ws is: '/ws', below base
   *     tokenIn   where a WebSocket shows the token: in its first 'message', or in its 'url' as
   *               access_token
   *     WebSocket another than the global one
   *     tries     how often in a row a stream is asked for without an event before that is
   *               an error: 20
   *     silence   ms
   *     fetch     another than the global one
   */
  constructor(base, options = {}) {
    this.#base = String(base).replace(/\/+$/, '');
    const WebSocket = options.WebSocket ?? globalThis.WebSocket;
    const ways = Object.keys(WAYS).filter((way) => way !== 'ws' || WebSocket);
    this.#options = { headers: {}, ways, tries: 20, silence: SILENCE, socket: '/ws',
                      tokenIn: 'message', WebSocket, fetch: globalThis.fetch.bind(globalThis), ...options };
    for (const way of this.#options.ways)
      if (!ways.includes(way)) throw new TypeError(`no such way to read a stream: ${way}`);
  }

  /* Closes the WebSocket, if there is one; what is read by it goes on by another. */
  close() {
    this.#socket?.then((socket) => socket.close(), () => {});
    this.#socket = null;
  }

  /*
   * The events of the answer to a request for /v1/chat/completions, or for another `path` whose
   * answers are streams. The question itself is asked once: whoever does not hear from the
   * server at all cannot know whether he will be billed for it.
   */
  async *chat(request, { signal, path = CHAT, onstream } = {}) {
    const place = { id: null, seq: 0, ended: false };
    let events;

    try {
      events = await this.#ask(request, place, signal, path, onstream);
      yield* track(place, events);
    } catch (error) {
      if (!(error instanceof Lost) || !(place.id || place.ended)) throw error;
    }
    if (place.id && !place.ended) yield* this.#follow(place, signal);
  }

  /* The events of the answer as far as the first connection has them. */
  async #ask(request, place, signal, path, onstream) {
    const begun = (id) => {
      place.id = id;
      if (id) onstream?.(id);
    };
    if (this.#options.ways[0] === 'ws' && path === CHAT) {
      const socket = Date.now() >= this.#socketless && await this.#open(signal).catch((error) => {
        if (!(error instanceof Lost)) throw error;
        this.#socketless = Date.now() + SOCKETLESS; /* there is none here */
      });
      if (socket) return socket.read({ type: 'chat', body: request }, place, signal, begun);
    }
    const reply = await this.#fetch(path, { method: 'POST', signal, accept: 'text/event-stream',
                                            body: JSON.stringify({ ...request, stream: true }) });
    begun(reply.response.headers.get('x-aiq-stream'));
    return eventsOf(reply);
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
        const read = WAYS[ways[0]](this.#connection, place, signal);
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

  /* What the ways need. */
  #connection = { fetch: (...args) => this.#fetch(...args), open: (signal) => this.#open(signal) };

  /* The one WebSocket, made where there is none. */
  async #open(signal) {
    const { WebSocket, socket, token, tokenIn, silence } = this.#options;

    this.#socket ??= Socket.open(async () => {
      const url = new URL(this.#base + socket, globalThis.location?.href);
      const bearer = await tokenOf(token);
      url.protocol = url.protocol.replace('http', 'ws');
      if (bearer && tokenIn === 'url') url.searchParams.set('access_token', bearer);
      const ws = new WebSocket(url);
      if (bearer && tokenIn !== 'url')
        ws.addEventListener('open', () => ws.send(JSON.stringify({ type: 'auth', token: bearer })));
      return ws;
    }, () => tokenOf(token), silence);
    const mine = this.#socket;
    try {
      const opened = await mine;
      if (!opened.lost) return opened;
    } catch (error) {
      if (this.#socket === mine) this.#socket = null;
      throw signal?.aborted ? signal.reason : error;
    }
    if (this.#socket === mine) this.#socket = null;
    return this.#open(signal);
  }

  /* The response, and its body as text bit by bit; an error reply is thrown. */
  async #fetch(path, { method = 'GET', accept, body, headers = {}, signal }) {
    const { token, silence } = this.#options;
    const watch = new Watch(silence, signal);
    const bearer = await tokenOf(token);
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
    /* the log's own have numbers: this one is about the connection, whose engine is gone */
    if (place.id && event.type === 'error' && !event.seq) throw new Lost(event.data);
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

/* A WebSocket that is gone is made anew by the next one who asks for it. */
async function* readSocket({ open }, place, signal) {
  const socket = await open(signal);

  yield* socket.read({ type: 'resume', stream: place.id, after: place.seq }, place, signal);
  if (!place.ended) throw new Lost('the connection ended before the stream');
}

/* Server-sent events. A body that is whole may still be a proxy's that gave up: whether the
 * stream is over, only the server can say. */
async function* readEvents({ fetch }, place, signal) {
  const path = streamPath(place.id);
  const reply = await fetch(path, { accept: 'text/event-stream', signal,
                                    headers: place.seq ? { 'last-event-id': String(place.seq) } : {} });

  yield* eventsOf(reply);
  if (!place.ended) yield* ask({ fetch }, place, signal, 0);
  if (!place.ended) throw new Lost('the connection ended before the stream');
}

/* Questions, each answered with what has come since the last one. */
async function* ask({ fetch }, place, signal, wait = POLL) {
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

async function tokenOf(token) {
  return typeof token === 'function' ? token() : token;
}

/* One WebSocket of /ws (docs/websocket.md), for all that is read by it. */
class Socket {
  #ws;
  #token;
  #silence;
  #flows = new Map(); /* by their ids: what takes their events */
  #asked = 0;
  #watch;
  #renew;
  #idle;
  lost = null; /* why it is of no use any more */

  /* Resolves once the server has said who we are; Lost where it does not. */
  static async open(connect, token, silence) {
    const socket = new Socket();
    let ws;
    try {
      ws = await connect();
    } catch (error) {
      throw new Lost(error.message, { cause: error });
    }
    return new Promise((resolve, reject) => {
      socket.#ws = ws;
      socket.#token = token;
      socket.#silence = silence;
      socket.#flows.set(undefined, (event) => {
        if (event instanceof Error) reject(event);
        else if (event.type === 'state') resolve(socket);
        if (event.data?.expires_at) socket.#renewBefore(event.data.expires_at);
      });
      ws.addEventListener('message', ({ data }) => socket.#hear(JSON.parse(data)));
      for (const end of ['close', 'error'])
        ws.addEventListener(end, () => socket.#lose(new Lost('the WebSocket is closed')));
      socket.#heard();
    });
  }

  close() {
    this.#lose(new Lost('the WebSocket was closed'));
  }

  #say(message) {
    this.#ws.send(JSON.stringify(message));
  }

  #hear(event) {
    this.#heard();
    this.#flows.get(event.id)?.(event);
  }

  /* Whoever is silent is asked, and then taken for dead. */
  #heard() {
    clearTimeout(this.#watch);
    this.#watch = setTimeout(() => {
      if (this.#ws.readyState === 1) this.#say({ type: 'ping' });
      this.#watch = setTimeout(() => this.#lose(new Lost('nothing was heard for too long')),
                               this.#silence / 2);
    }, this.#silence / 2);
  }

  #renewBefore(end) {
    const left = Date.parse(end) - Date.now();

    clearTimeout(this.#renew);
    this.#renew = setTimeout(async () => {
      const token = await this.#token();
      if (!this.lost && token) this.#say({ type: 'auth', token });
    }, Math.min(Math.max(left - RENEW, left / 2), 2 ** 31 - 1));
  }

  #lose(why) {
    if (this.lost) return;
    this.lost = why;
    clearTimeout(this.#watch);
    clearTimeout(this.#renew);
    clearTimeout(this.#idle);
    this.#ws.close();
    for (const take of [...this.#flows.values()]) take(why);
  }

  /* The events of what a message asks for, to its end; begun(id) learns the stream's. */
  async *read(message, place, signal, begun = () => {}) {
    const id = `f${++this.#asked}`;
    const events = [];
    let wake, over = false;
    const take = (event) => {
      events.push(event);
      wake?.();
    };
    const onabort = () => take(signal.reason);

    if (signal?.aborted) throw signal.reason;
    if (this.lost) throw this.lost;
    signal?.addEventListener('abort', onabort);
    clearTimeout(this.#idle);
    this.#flows.set(id, take);
    this.#say({ ...message, id });
    try {
      for (;;) {
        while (!events.length) await new Promise((resolve) => { wake = resolve; });
        const event = events.shift();
        over = ['done', 'error', 'cancelled'].includes(event.type);
        if (signal?.aborted) throw signal.reason;
        if (event instanceof Error) throw event;
        if (event.type === 'started') begun(event.stream ?? null);
        yield* given(event, place);
        if (over) return;
      }
    } finally {
      this.#flows.delete(id);
      signal?.removeEventListener('abort', onabort);
      if (!over && !this.lost) this.#say({ type: 'unsubscribe', id });
      if (this.#flows.size === 1 && !this.lost) this.#idle = setTimeout(() => this.close(), IDLE);
    }
  }
}

/* What an event of /ws is in the words of the others. */
function* given({ type, seq, event, data }, place) {
  const text = typeof data === 'string' ? data : JSON.stringify(data);

  if (type === 'delta' || (type === 'error' && !data.status)) {
    yield { seq, type: event ?? 'message', data: text };
    if (type === 'error') yield END;
  } else if (type === 'error') {
    throw new StreamError(data.status, data.error.code ?? data.error.type ?? 'error', data.error.message,
                          data.retry_after ?? NaN);
  } else if (type === 'done') {
    if (seq > place.seq) yield { seq, type: 'message', data: '[DONE]' };
    yield END;
  }
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
