// OpenAI's SDK with files and batches:
//     node files.mjs ORIGIN
// Prints TAP.

import OpenAI, { toFile } from 'openai';

const openai = new OpenAI({ apiKey: 'none', maxRetries: 0, timeout: 20000, baseURL: `${process.argv[2]}/v1` });
let count = 0;

function same(got, expected, name) {
  const [a, b] = [JSON.stringify(got), JSON.stringify(expected)];
  console.log(`${a === b ? 'ok' : 'not ok'} ${++count} - ${name}` + (a === b ? '' : `: ${a}, not ${b}`));
}

async function error(promise) {
  try { return await promise; } catch (e) { return e; }
}

const file = await openai.files.create({ purpose: 'batch', file: await toFile(Buffer.alloc(2000000, 'x'), 'in.jsonl') });
same([file.object, file.purpose, file.file.size], ['file', 'batch', 2000000], 'a file is kept');
same((await openai.files.retrieve(file.id)).id, file.id, 'it is there');
const list = await openai.files.list({ purpose: 'batch', limit: 5 });
same(list.data.map(f => f.id), [file.id], 'and in the list');
same(await (await openai.files.content(file.id)).text(), '{"error":{}}\n{}\n', 'what is in it is not looked into');
const batch = await openai.batches.create({ input_file_id: file.id, endpoint: '/v1/chat/completions', completion_window: '24h' });
same([batch.object, batch.input_file_id], ['batch', file.id], 'a batch');
same((await openai.batches.retrieve(batch.id)).status, 'validating', 'it has begun');
same((await openai.batches.list()).data.map(b => b.id), [batch.id], 'and is in the list');
same((await openai.batches.cancel(batch.id)).status, 'cancelling', 'it can be ended');
let e = await error(openai.files.retrieve('file-none'));
same([e instanceof OpenAI.NotFoundError, e.error?.message], [true, 'no file-none'], 'no such file');
e = await error(openai.files.delete(file.id));
same(e instanceof OpenAI.PermissionDeniedError, true, 'to remove one takes the right to write');

console.log(`1..${count}`);
