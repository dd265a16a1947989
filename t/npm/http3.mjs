// A browser over HTTP/3:
//     node http3.mjs PORT MODEL KEY CHROMIUM FOLDER
// PORT: of nginx on 127.0.0.1, UDP; MODEL answers with a stream; KEY: the SHA-256, in base64, of
// the public key that nginx shows; FOLDER is the browser's. Prints TAP.

import { chromium } from 'playwright-core';

const [port, model, key, executablePath, folder] = process.argv.slice(2);
let count = 0;

function is(got, due, name) {
  console.log(`${got === due ? 'ok' : 'not ok'} ${++count} - ${got === due ? name : `${name}: ${got}, not ${due}`}`);
}

const browser = await chromium.launchPersistentContext(folder, { executablePath, args: [
  '--no-sandbox', `--origin-to-force-quic-on=127.0.0.1:${port}`, `--ignore-certificate-errors-spki-list=${key}` ] });
const page = await browser.newPage();
await page.goto(`https://127.0.0.1:${port}/`);

// Runs in the page.
async function ask([path, body]) {
  const reply = await fetch(path, body && { method: 'POST', body: JSON.stringify(body) });
  const text = await reply.text();
  const entry = performance.getEntriesByType('resource').findLast((each) => each.name.endsWith(path));
  return { status: reply.status, by: entry?.nextHopProtocol, text, stream: reply.headers.get('x-aiq-stream') };
}

const messages = [{ role: 'user', content: 'Tell me' }];
const stream = await page.evaluate(ask, ['/v1/chat/completions', { model, messages, stream: true }]);
is(`${stream.status} ${stream.by}`, '200 h3', 'a chat');
is(/^id: 1$.*^data: \[DONE\]$/ms.test(stream.text), true, 'its stream is whole');
const again = await page.evaluate(ask, [`/v1/streams/${stream.stream}?after=0`, null]);
is(`${again.status} ${again.by} ${JSON.parse(again.text).data.at(-1).data}`, '200 h3 [DONE]', 'it is read again');
const wrong = await page.evaluate(ask, ['/v1/chat/completions', { model }]);
is(`${wrong.status} ${JSON.parse(wrong.text).error.param}`, '400 messages', 'what is wrong is told');
const large = await page.evaluate(ask, ['/v1/chat/completions', { model, messages: [{ role: 'user', content: 'x'.repeat(500000) }] }]);
is(large.status, 200, 'a body of half a megabyte');

await browser.close();
console.log(`1..${count}`);
process.exit(0);
