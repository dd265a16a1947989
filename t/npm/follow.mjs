// Two streams and a topic over one EventSource, through a connection that is cut again and
// again: every event of each, once and in order.
//     node follow.mjs PORT MODEL TOKEN
// Prints TAP.

import { EventSource } from 'eventsource';
import { cutting } from './cutting.mjs';

const [port, model, token] = process.argv.slice(2);
const direct = `http://127.0.0.1:${port}`;
const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' };
let count = 0;

function ok(condition, name) {
  console.log(`${condition ? 'ok' : 'not ok'} ${++count} - ${name}`);
}

// Who asks leaves at once, and somebody else looks on.
async function begin() {
  const leave = new AbortController();
  const reply = await fetch(`${direct}/v1/chat/completions`, {
    method: 'POST', headers, signal: leave.signal,
    body: JSON.stringify({ model, stream: true, messages: [{ role: 'user', content: 'hi' }] }),
  });
  leave.abort();
  return reply.headers.get('x-aiq-stream');
}

async function publish(n) {
  const reply = await fetch(`${direct}/v1/topics/news`, {
    method: 'POST', headers, body: JSON.stringify({ type: 'n', data: n }),
  });
  return (await reply.json()).seq;
}

const proxy = cutting(port, 7, 100000).listen(0, '127.0.0.1');
await new Promise((done) => proxy.once('listening', done));
const streams = [await begin(), await begin()];
const url = `http://127.0.0.1:${proxy.address().port}/v1/streams?${new URLSearchParams({ ids: streams.join(), topics: 'news' })}`;
const source = new EventSource(url, {
  fetch: (to, init) => fetch(to, { ...init, headers: { ...init.headers, ...headers } }),
});
const got = {}, over = [], told = [];
let stated;
const state = new Promise((done) => { stated = done; });
source.addEventListener('state', (event) => { told.push(JSON.parse(event.data)); stated(); });
source.onmessage = (event) => {
  const one = JSON.parse(event.data);
  if (one.done) {
    over.push(one.stream);
  } else {
    (got[one.stream ?? one.topic] ??= []).push(one);
  }
};
await state;

const said = [];
while (over.length < 2) {
  said.push(await publish(said.length));
  await new Promise((done) => setTimeout(done, 20));
}
while ((got.news ?? []).length < said.length) {
  await new Promise((done) => setTimeout(done, 20));
}
source.close();

ok(proxy.cuts > 0, `it was cut ${proxy.cuts} times`);
ok(told[0].streams.length === 3 && told[0].streams[0].stream === streams[0] && told[0].streams[2].topic === 'news',
  'each connection begins with the places of all');
for (const id of streams) {
  const all = await (await fetch(`${direct}/v1/streams/${id}?after=0`, { headers })).json();
  ok(got[id].every((event, i) => event.seq === i + 1), `each of ${got[id].length} events, once and in order`);
  ok(got[id].at(-1).data === '[DONE]', 'to the end');
  ok(all.data.every((event, i) => JSON.stringify({ stream: id, ...event }) === JSON.stringify(got[id][i])),
    'the same that JSON says');
}
ok(JSON.stringify(got.news.map((event) => event.seq)) === JSON.stringify(said), `and ${said.length} of the topic`);
ok(got.news.every((event, i) => event.data === i && event.type === 'n'), 'as they were published');

proxy.close();
console.log(`1..${count}`);
process.exit();
