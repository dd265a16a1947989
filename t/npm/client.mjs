// The project's own client (engine/console/client.js) through a network that misbehaves:
//     node client.mjs PORT MODEL EVENTS CLOSED
// PORT: of nginx on 127.0.0.1; MODEL answers with a stream of so many events; at CLOSED nobody
// listens. Prints TAP.

import http from 'node:http';
import { once } from 'node:events';
import { WebSocket, WebSocketServer } from 'ws';
import { cutting } from './cutting.mjs';
import { Client, StreamError } from '../../engine/console/client.js';

const [port, model, due, closed] = process.argv.slice(2);
const direct = `http://127.0.0.1:${port}`;
const request = { model, messages: [{ role: 'user', content: 'Tell me' }] };
let count = 0;

function ok(condition, name) {
  console.log(`${condition ? 'ok' : 'not ok'} ${++count} - ${name}`);
}

function is(got, due, name) {
  ok(got === due, got === due ? name : `${name}: ${got}, not ${due}`);
}

async function listening(server) {
  await once(server.listen(0, '127.0.0.1'), 'listening');
  return `http://127.0.0.1:${server.address().port}`;
}

// A proxy that knows no WebSockets, and (hold) passes an event stream on when it has all of it.
function onward(hold) {
  const server = http.createServer((asked, reply) => {
    const far = http.request({ port, host: '127.0.0.1', method: asked.method, path: asked.url,
                                  headers: asked.headers }, async (answer) => {
      reply.writeHead(answer.statusCode, answer.headers);
      if (!hold || !/event-stream/.test(answer.headers['content-type'])) return answer.pipe(reply);
      reply.flushHeaders();
      answer.on('error', () => {}).resume();
    });
    reply.on('close', () => far.destroy());
    far.on('error', () => reply.destroy());
    asked.pipe(far);
  });
  server.upgrades = 0;
  return server.on('upgrade', (asked, socket) => {
    server.upgrades++;
    socket.destroy();
  });
}

async function all(events) {
  const got = [];
  for await (const event of events) got.push(event);
  return got;
}

const numbers = (events) => events.map((event) => event.seq).join();
const text = (events) => events.map((event) => event.data).filter((data) => data !== '[DONE]')
  .map((data) => JSON.parse(data).choices?.[0]?.delta?.content ?? '').join('');

let id;
const plain = await all(new Client(direct).chat(request, { onstream: (name) => { id = name; } }));
is(numbers(plain), plain.map((_, i) => i + 1).join(), 'events are numbered from 1, and each comes once');
is(plain.at(-1).data, '[DONE]', 'to the last one');
is(String(plain.length), due, 'which is the whole answer');

const again = (events) => JSON.stringify(events.map(({ seq, type, data }) => ({ seq, type, data })));
for (const way of ['ws', 'sse', 'poll']) {
  const client = new Client(direct, { ways: [way], WebSocket });
  is(again(await all(client.follow(id))), again(plain), `${way}: the same once more`);
  is(again(await all(client.follow(id, { after: 5 }))), again(plain.slice(5)), `${way}: and from the middle`);
}

// An answer to a poll is of use when it is whole, so connections must last longer: this is about
// twice what the longest one has. Over one WebSocket all four have to begin.
for (const [way, most, least] of [['ws', 6000, 15000], ['sse', 3000], ['poll', 30000]]) {
  const proxy = cutting(port, 1, most, least);
  const client = new Client(await listening(proxy), { ways: [way], tries: 100, WebSocket });
  const answers = await Promise.all([1, 2, 3, 4].map(() => all(client.chat(request)).catch(String)));
  for (const answer of answers) {
    const why = Array.isArray(answer) ? '' : `: ${answer}`;
    ok(!why && numbers(answer) === numbers(plain) && text(answer) === text(plain),
      `${way}: an answer over connections that are cut has nothing twice and lacks nothing${why}`);
  }
  ok(proxy.cuts > 1, `${way}: they were cut, ${proxy.cuts} times`);
  proxy.close();
}

for (const [hold, what] of [[false, 'as an event stream'], [true, 'by polling, where those are held back']]) {
  const proxy = onward(hold);
  const client = new Client(await listening(proxy), { silence: 300, WebSocket });
  is(numbers(await all(client.chat(request))), numbers(plain), `where WebSockets are unknown the answer comes ${what}`);
  ok(proxy.upgrades > 0, 'though they were tried');
  proxy.close();
  proxy.closeAllConnections();
}

// A server that says what the client must answer to.
async function heard(state, silence, options = {}) {
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1' });
  await once(server, 'listening');
  const messages = [];
  const over = new Promise((resolve) => {
    server.on('connection', (ws, asked) => {
      messages.push(asked.url);
      const greet = () => ws.send(JSON.stringify({ type: 'state', seq: 1, data: state }));
      if (options.tokenIn === 'url') greet();
      ws.on('message', (data) => {
        const message = JSON.parse(data);
        messages.push(message);
        if (messages.length === 2 && message.type === 'auth') greet();
        else if (message.type === 'auth' || message.type === 'ping')
          ws.send(JSON.stringify({ type: 'done', id: messages.find(({ body }) => body).id, seq: 1, data: {} }));
      });
      ws.on('close', resolve);
    });
  });
  const client = new Client(`http://127.0.0.1:${server.address().port}`,
                            { WebSocket, silence, token: () => `t${messages.length}`, ...options });
  await all(client.chat(request));
  client.close();
  await over;
  server.close();
  return messages;
}

const soon = () => ({ expires_at: new Date(Date.now() + 1000).toISOString() });
let [url, first, asked, message] = await heard(soon(), 45000);
is(url, '/ws', 'the token is not in the URL');
is(JSON.stringify(first), '{"type":"auth","token":"t0"}', 'but in the first message');
is(JSON.stringify([message.type, message.token]), '["auth","t3"]', 'a new token is shown before the old one ends');
[url, asked, message] = await heard(soon(), 45000, { tokenIn: 'url' });
is(url, '/ws?access_token=t0', 'in the URL, where that is wanted');
is(JSON.stringify([asked.type, asked.body]), JSON.stringify(['chat', request]), 'what is asked is a message');
is(JSON.stringify([message.type, message.token]), '["auth","t2"]', 'a new token is shown before the old one ends');
[, , , message] = await heard({}, 200);
is(message.type, 'ping', 'who is silent is asked');

async function failure(events) {
  try {
    await all(events);
    return 'no error';
  } catch (error) {
    return error instanceof StreamError ? `${error.status} ${error.code}` : error.name;
  }
}

const client = new Client(direct, { tries: 3 });
is(await failure(client.chat({ ...request, model: 'none' })), '404 model_not_found', 'no such model');
is(await failure(client.follow('strm_nonsense')), '404 stream_not_found', 'no such stream');
is(await failure(new Client(`http://127.0.0.1:${closed}`).chat(request)), 'Error', 'nobody there: the question is not asked twice');
const abort = new AbortController();
is(await failure(client.chat(request, { signal: abort.signal, onstream: () => abort.abort() })), 'AbortError',
  'who does not want to hear more is not told more');

console.log(`1..${count}`);
process.exit(0);
