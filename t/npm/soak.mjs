// Viewers of streams and readers of a topic through whatever happens, and cuts of their own:
// nothing may be missing, come twice or end without a word.
//     node soak.mjs PORT MODEL TOKEN SEED
// Runs until its input ends. Prints what has become of all, and what was wrong, as JSON.

const [port, model, token, seed] = process.argv.slice(2);
const VIEWERS = 24, READERS = 8;
const base = `http://127.0.0.1:${port}`;
const identity = { authorization: `Bearer ${token}` };
const ends = {}, wrong = [];
let stopping = false, cuts = 0, events = 0, expected;

process.stdin.on('end', () => { stopping = true; }).resume();

let state = Number(seed);
function random(n) {
  state = (state * 1103515245 + 12345) % 2 ** 31;
  return state % n;
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const count = (what) => { ends[what] = (ends[what] ?? 0) + 1; };

// A request's events, until it ends or is cut: 'end', 'cut', or the error that it is.
async function read(path, init, most, take) {
  const cut = new AbortController();
  let reply, text = '';

  try {
    reply = await fetch(base + path, {
      ...init, headers: { accept: 'text/event-stream', ...identity, ...init.headers }, signal: cut.signal,
    });
    if (reply.status !== 200) {
      const body = await reply.text();
      return { status: reply.status, code: reply.status === 204 ? 'none' : JSON.parse(body).error?.code };
    }
    take.name?.(reply.headers.get('x-aiq-stream'));
    const decoder = new TextDecoder();
    for await (const piece of reply.body) {
      text += decoder.decode(piece, { stream: true });
      let end;
      while ((end = text.indexOf('\n\n')) >= 0) {
        const frame = Object.fromEntries(text.slice(0, end).split('\n').filter((line) => line && !line.startsWith(':'))
          .map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 2)]));
        text = text.slice(end + 2);
        if (frame.data !== undefined) {
          take.event(frame);
          if (--most === 0) {
            cuts++;
            cut.abort();
          }
        }
      }
    }
  } catch (error) {
    return { cut: true };
  }
  return { end: true };
}

// A stream to its end, which is all of it, or an error that says so. A guaranteed one outlives
// its engine: it may end early only where its provider is not to be asked to go on.
async function view(kind) {
  const guaranteed = kind !== 'best-effort', got = [];
  let id = null, failed = null;
  const take = {
    name: (name) => { id ??= name; },
    event: (frame) => {
      const error = frame.data.startsWith('{"error"');
      events++;
      if (error) {
        const code = JSON.parse(frame.data).error.code;
        if (guaranteed && code === 'engine_lost') return;   // to come back
        failed = code;
        return;
      }
      if (Number(frame.id) !== got.length + 1) wrong.push(`event ${frame.id} follows ${got.length}`);
      got.push(frame.data);
    },
  };
  const whole = () => got.at(-1) === '[DONE]';
  const ask = { method: 'POST',
    headers: { 'content-type': 'application/json', ...(guaranteed && { 'x-aiq-qos': 'guaranteed' }),
      ...(kind === 'continued' && { 'x-aiq-continue': 'allow' }) },
    body: JSON.stringify({ model, stream: true, messages: [{ role: 'user', content: 'hi' }] }) };

  while (!whole() && !failed) {
    const how = await read(id ? `/v1/streams/${id}` : '/v1/chat/completions',
      id ? { headers: got.length ? { 'last-event-id': String(got.length) } : {} } : ask,
      expected && random(4) ? 1 + random(70) : Infinity, take);
    if (whole() || failed) break;
    if (how.end && !guaranteed) {
      wrong.push(`a stream ended behind event ${got.length} of ${id}`);
      return;
    }
    if (how.status === 404 || how.status === 410) failed = how.code;
    else if (!id && how.cut) return count(`${kind}: never begun`);
    else await pause(20 + random(200));   // it was cut, or the server cannot say now
  }
  count(`${kind}: ${failed ?? 'whole'}`);
  if (guaranteed && failed && (kind === 'continued' || failed !== 'stream_broken_off')) {
    wrong.push(`a ${kind} stream ended with ${failed} behind event ${got.length} of ${id}`);
  }
  expected ??= failed ? undefined : got.join('\n');
  const again = got.some((data) => data.includes('"continued"'));   // the mock says all again then
  if (!failed && !again && got.join('\n') !== expected) wrong.push('a stream is not what it should be');
}

// A topic's numbers follow each other, or it is said that they do not.
async function listen() {
  let last = null, gap = false;
  const take = {
    event: (frame) => {
      events++;
      if (frame.event === 'stream_truncated') {
        gap = true;
        count('gaps that were told');
        return;
      }
      if (frame.data.startsWith('{"error"')) {
        count(`topic: ${JSON.parse(frame.data).error.code}`);
        return;
      }
      if (last !== null && !gap && frame.event !== 'state' && Number(frame.id) !== last + 1) {
        wrong.push(`event ${frame.id} of the topic follows ${last}`);
      }
      gap = false;
      last = Number(frame.id);
    },
  };
  while (!stopping) {
    const how = await read('/v1/topics/soak', { headers: last === null ? {} : { 'last-event-id': String(last) } },
      1 + random(60), take);
    if (how.status && how.status < 500) wrong.push(`a topic: ${how.status} ${how.code}`);
    await pause(20 + random(100));
  }
}

async function publish() {
  for (let n = 0; !stopping; n++) {
    try {
      await (await fetch(`${base}/v1/topics/soak`, { method: 'POST', headers: identity,
        body: JSON.stringify({ type: 'n', data: n }) })).text();
    } catch { /* nobody knows whether it was */ }
    await pause(20);
  }
}

async function keep(kind) {
  while (!stopping) await view(kind);
}

await view('best-effort');
console.log('ready');
const topic = [publish(), ...Array.from({ length: READERS }, listen)];
const kinds = ['best-effort', 'best-effort', 'guaranteed', 'continued'];
await Promise.all(Array.from({ length: VIEWERS }, (_, i) => keep(kinds[i % kinds.length])));
setTimeout(() => process.exit(), 5000).unref();
console.log(JSON.stringify({ ends, wrong: wrong.slice(0, 20), cuts, events }));
await Promise.race([Promise.all(topic), pause(3000)]);
process.exit();
