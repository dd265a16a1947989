// What the official SDK reads of limits: node limits.mjs BASE_URL, where a token limit of
// 100 a day counts the requests, and each of the mock's answers uses 21. Prints TAP.

import OpenAI from 'openai';

const [baseURL] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: 'none', maxRetries: 0, timeout: 20000 });
const request = { model: 'mock-chat', max_tokens: 60, messages: [{ role: 'user', content: 'What is aiq?' }] };
let count = 0;

function ok(condition, name) {
  console.log(`${condition ? 'ok' : 'not ok'} ${++count} - ${name}`);
}

function tells(headers, remaining, name) {
  ok(headers.get('x-ratelimit-limit-tokens') === '100', `${name}: the limit`);
  ok(headers.get('x-ratelimit-remaining-tokens') === remaining, `${name}: ${remaining} are left`);
  ok(/^(\d+h)?(\d+m)?\d+s$/.test(headers.get('x-ratelimit-reset-tokens')), `${name}: until when`);
}

const { data, response } = await client.chat.completions.create(request).withResponse();
ok(data.choices.length === 1 && data.usage.total_tokens === 21, 'an answer');
tells(response.headers, '79', 'an answer');
ok(response.headers.get('x-ratelimit-remaining-requests') === '4', 'beside those of requests');

try {
  await client.chat.completions.create({ ...request, max_tokens: 90 });
  ok(false, 'a refusal');
} catch (e) {
  ok(e instanceof OpenAI.RateLimitError && e.code === 'rate_limit_exceeded', 'a refusal');
  tells(e.headers, '79', 'a refusal');
  ok(Number(e.headers.get('retry-after')) > 80000, 'a refusal: Retry-After');
}

console.log(`1..${count}`);
