// OpenAI's SDK with sounds and images:
//     node media.mjs ORIGIN
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

const sound = size => toFile(Buffer.alloc(size, 'x'), 's\u00f6und.mp3', { type: 'audio/mpeg' });

const speech = await openai.audio.speech.create({ model: 'media', voice: 'alloy', input: 'Hi' });
same(speech.headers.get('content-type'), 'audio/mpeg', 'speech: its type');
const bytes = Buffer.from(await speech.arrayBuffer());
same([bytes.length, [...bytes.subarray(0, 5)]], [100004, [0, 255, 13, 10, 7]], 'speech: every byte');
let e = await error(openai.audio.speech.create({ model: 'media', voice: 'alloy', input: 'cut' }).then(r => r.arrayBuffer()));
same(e instanceof Error, true, 'speech: a connection that ends early is no end');

const heard = await openai.audio.transcriptions.create({ model: 'media', file: await sound(1000) });
same([heard.text, heard.usage.input_tokens], ['Hello', 14], 'a transcription');
same(await openai.audio.transcriptions.create({ model: 'media', file: await sound(3000000), response_format: 'text' }), 'Hello\n', 'a transcription as text, of a large file');

same((await openai.images.generate({ model: 'media', prompt: 'x' })).data[0].b64_json, 'aGk=', 'an image');
let type;
for await (const event of await openai.images.generate({ model: 'media', prompt: 'x', stream: true })) type = event.type;
same(type, 'image_generation.completed', 'an image as a stream');
same((await openai.images.edit({ model: 'media', image: await sound(10), prompt: 'x' })).data[0].b64_json, 'aGk=', 'an image changed');

e = await error(openai.audio.transcriptions.create({ model: 'bad', file: await sound(10) }));
same([e instanceof OpenAI.BadRequestError, e.error?.message], [true, 'You asked for it.'], 'a refusal');
e = await error(openai.audio.transcriptions.create({ model: 'none', file: await sound(10) }));
same([e instanceof OpenAI.NotFoundError, e.code], [true, 'model_not_found'], 'no such model');
e = await error(openai.audio.transcriptions.create({ file: await sound(10) }));
same([e instanceof OpenAI.BadRequestError, e.param], [true, 'model'], 'no model');
e = await error(openai.audio.speech.create({ model: 'other', voice: 'alloy', input: 'Hi' }));
same([e instanceof OpenAI.BadRequestError, e.code], [true, 'unsupported_endpoint'], 'a provider that does not speak');

console.log(`1..${count}`);
