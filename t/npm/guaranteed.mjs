// A guaranteed stream whose engine is killed, read by the JavaScript client and by an
// EventSource, which know nothing of that.
//     node guaranteed.mjs PORT MODEL
// Prints "middle" when both are in the middle of it, then TAP.

import { EventSource } from 'eventsource';
import { Client } from '../../engine/console/client.js';

const [port, model] = process.argv.slice(2);
const base = `http://127.0.0.1:${port}`;
let count = 0;

function ok(condition, name) {
  console.log(`${condition ? 'ok' : 'not ok'} ${++count} - ${name}`);
}

const leave = new AbortController();
const reply = await fetch(`${base}/v1/chat/completions`, {
  method: 'POST',
  headers: { 'content-type': 'application/json', 'x-aiq-qos': 'guaranteed', 'x-aiq-continue': 'allow' },
  body: JSON.stringify({ model, stream: true, messages: [{ role: 'user', content: 'hi' }] }),
  signal: leave.signal,
});
const id = reply.headers.get('x-aiq-stream');
leave.abort();

// Each of them, what it has got: [number, data]. That it was cut off has no number.
const client = [], source = [];
let middle;
const inTheMiddle = new Promise((done) => { middle = done; });

function got(events, event) {
  events.push(event);
  if (client.length > 10 && source.length > 10) middle();
}

async function follow() {
  for await (const event of new Client(base, { ways: ['sse', 'poll'] }).follow(id)) {
    if (event.seq) got(client, [event.seq, event.data]);
  }
}

function listen() {
  const events = new EventSource(`${base}/v1/streams/${id}`);

  events.onmessage = (event) => {
    const number = Number(event.lastEventId);
    if (number === source.length + 1) got(source, [number, event.data]);
  };
  return new Promise((done) => {
    events.onerror = () => events.readyState === EventSource.CLOSED && done();
  });
}

const all = Promise.all([follow(), listen()]);
await inTheMiddle;
console.log('middle');
await all;

ok(client.at(-1)[1] === '[DONE]', 'the client: to its end');
ok(client.every(([number], i) => number === i + 1), `the client: each of ${client.length} events once, in order`);
ok(client.some(([, data]) => data.includes('"continued"')), 'another engine has gone on');
ok(JSON.stringify(source) === JSON.stringify(client), 'EventSource: the same');
console.log(`1..${count}`);
