// A browser's way to a stream: EventSource, over a connection that is cut again and again.
//     node eventsource.mjs PORT MODEL
// Prints TAP.

import net from 'node:net';
import { EventSource } from 'eventsource';

const [port, model] = process.argv.slice(2);
const CUTS = 3;
let count = 0;

function ok(condition, name) {
  console.log(`${condition ? 'ok' : 'not ok'} ${++count} - ${name}`);
}

// A proxy that cuts the first connections after some bytes.
const heads = [];
const proxy = net.createServer((client) => {
  const server = net.connect(port, '127.0.0.1');
  let left = heads.length < CUTS ? 1500 + Math.floor(Math.random() * 4000) : Infinity;

  client.on('data', (data) => { heads.push(String(data)); server.write(data); });
  server.on('data', (data) => {
    client.write(data.subarray(0, Math.min(left, data.length)));
    left -= data.length;
    if (left <= 0) {
      client.destroy();
      server.destroy();
    }
  });
  server.on('end', () => client.end());
  for (const socket of [client, server]) {
    socket.on('error', () => {});
    socket.on('close', () => { client.destroy(); server.destroy(); });
  }
}).listen(0, '127.0.0.1');
await new Promise((done) => proxy.once('listening', done));

// Who asks leaves at once, and somebody else looks on.
const leave = new AbortController();
const reply = await fetch(`http://127.0.0.1:${port}/v1/chat/completions`, {
  method: 'POST',
  headers: { 'content-type': 'application/json' },
  body: JSON.stringify({ model, stream: true, messages: [{ role: 'user', content: 'hi' }] }),
  signal: leave.signal,
});
const path = `/v1/streams/${reply.headers.get('x-aiq-stream')}`;
leave.abort();

const source = new EventSource(`http://127.0.0.1:${proxy.address().port}${path}`);
const ids = [], data = [];
source.onmessage = (event) => { ids.push(Number(event.lastEventId)); data.push(event.data); };
await new Promise((done) => {
  source.onerror = () => source.readyState === EventSource.CLOSED && done();
});

ok(data.at(-1) === '[DONE]', 'it has come to its end');
ok(ids.every((id, i) => id === i + 1), `every one of ${ids.length} events, once and in order`);
ok(heads.length === CUTS + 2, `it came back after ${CUTS} cuts, and once more in vain`);
ok(heads.slice(1).every((head) => /^last-event-id: \d+\r$/mi.test(head)), 'each time from where it was');

const page = await (await fetch(`http://127.0.0.1:${port}${path}?after=0`)).json();
ok(JSON.stringify(page.data.map((event) => event.data)) === JSON.stringify(data.slice(0, page.next)),
  'JSON says the same');

proxy.close();
console.log(`1..${count}`);
