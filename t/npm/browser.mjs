// The client in a browser, over connections that are cut:
//     node browser.mjs PORT MODEL EVENTS CHROMIUM FOLDER
// PORT: of nginx on 127.0.0.1, which has the client at /client/; MODEL answers with a stream of so
// many EVENTS; FOLDER is the browser's. Prints TAP.

import { once } from 'node:events';
import { chromium } from 'playwright-core';
import { cutting } from './cutting.mjs';

const [port, model, due, executablePath, folder] = process.argv.slice(2);
let count = 0;

function is(got, due, name) {
  console.log(`${got === due ? 'ok' : 'not ok'} ${++count} - ${got === due ? name : `${name}: ${got}, not ${due}`}`);
}

const browser = await chromium.launchPersistentContext(folder, { executablePath, args: ['--no-sandbox'] });
const page = await browser.newPage();
const complaints = [];
page.on('pageerror', (error) => complaints.push(String(error)));

// Runs in the page.
async function answers([request, ways]) {
  const { Client } = await import('/client/client.js');
  const client = new Client(location.origin, { ways, tries: 100 });
  const one = async () => {
    const got = [];
    for await (const event of client.chat(request)) got.push(event);
    return got;
  };
  const whole = (got) => got.every((event, i) => event.seq === i + 1) && got.at(-1).data === '[DONE]';
  const all = await Promise.all([1, 2, 3].map(one));
  return all.map((got) => `${got.length} ${whole(got)}`);
}

const request = { model, messages: [{ role: 'user', content: 'Tell me' }] };
for (const [way, most, least] of [['ws', 6000, 12000], ['sse', 3000], ['poll', 30000]]) {
  const proxy = cutting(port, 1, most, least);
  await once(proxy.listen(0, '127.0.0.1'), 'listening');
  await page.goto(`http://127.0.0.1:${proxy.address().port}/client/`);
  for (const answer of await page.evaluate(answers, [request, [way]]))
    is(answer, `${due} true`, `${way}: nothing twice, and nothing is missing`);
  is(proxy.cuts > 1, true, `${way}: over connections that were cut, ${proxy.cuts} times`);
  proxy.close();
}
is(complaints.join(), '', 'nothing went wrong in the page');

await browser.close();
console.log(`1..${count}`);
process.exit(0);
