// The project's own client (engine/console/client.js) through a network that misbehaves:
//     node client.mjs PORT MODEL EVENTS
// PORT: of nginx on 127.0.0.1; MODEL answers with a stream of so many events. Prints TAP.

import http from 'node:http';
import { once } from 'node:events';
import { cutting } from './cutting.mjs';
import { Client, StreamError } from '../../engine/console/client.js';

const [port, model, due] = process.argv.slice(2);
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

// A proxy that passes an event stream on when it has all of it.
function holding() {
  return http.createServer((asked, reply) => {
    const onward = http.request({ port, host: '127.0.0.1', method: asked.method, path: asked.url,
                                  headers: asked.headers }, async (answer) => {
      reply.writeHead(answer.statusCode, answer.headers);
      if (!/event-stream/.test(answer.headers['content-type'])) return answer.pipe(reply);
      reply.flushHeaders();
      answer.on('error', () => {}).resume();
    });
    reply.on('close', () => onward.destroy());
    onward.on('error', () => reply.destroy());
    asked.pipe(onward);
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
for (const way of ['sse', 'poll']) {
  const client = new Client(direct, { ways: [way] });
  is(again(await all(client.follow(id))), again(plain), `${way}: the same once more`);
  is(again(await all(client.follow(id, { after: 5 }))), again(plain.slice(5)), `${way}: and from the middle`);
}

// An answer to a poll is of use when it is whole, so connections must last longer: this is about
// twice what the longest one has.
for (const [way, most] of [['sse', 3000], ['poll', 30000]]) {
  const proxy = cutting(port, 1, most);
  const client = new Client(await listening(proxy), { ways: [way], tries: 100 });
  const answers = await Promise.all([1, 2, 3, 4].map(() => all(client.chat(request)).catch(String)));
  for (const answer of answers) {
    const why = Array.isArray(answer) ? '' : `: ${answer}`;
    ok(!why && numbers(answer) === numbers(plain) && text(answer) === text(plain),
      `${way}: an answer over connections that are cut has nothing twice and lacks nothing${why}`);
  }
  ok(proxy.cuts > 1, `${way}: they were cut, ${proxy.cuts} times`);
  proxy.close();
}

const proxy = holding();
const held = new Client(await listening(proxy), { silence: 300 });
is(numbers(await all(held.chat(request))), numbers(plain), 'where streams are held back the answer comes by polling');
proxy.close();
proxy.closeAllConnections();

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
is(await failure(new Client('http://127.0.0.1:1').chat(request)), 'Error', 'nobody there: the question is not asked twice');
const abort = new AbortController();
is(await failure(client.chat(request, { signal: abort.signal, onstream: () => abort.abort() })), 'AbortError',
  'who does not want to hear more is not told more');

console.log(`1..${count}`);
process.exit(0);
