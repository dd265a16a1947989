// What the official SDKs make of a server that wants API keys:
//     node keys_sdk.mjs BASE_URL GOOD DISABLED
// BASE_URL is without /v1. Prints TAP.

import Anthropic from '@anthropic-ai/sdk';
import OpenAI from 'openai';

const [baseURL, good, disabled] = process.argv.slice(2);
const messages = [{ role: 'user', content: 'hi' }];
let count = 0;

const openai = (apiKey) => new OpenAI({ baseURL: `${baseURL}/v1`, apiKey, maxRetries: 0 })
  .chat.completions.create({ model: 'demo', messages, max_tokens: 1 });
// its key goes into x-api-key, its token into Authorization
const anthropic = (credential) => new Anthropic({ baseURL, apiKey: null, authToken: null, ...credential, maxRetries: 0 })
  .messages.create({ model: 'demo', messages, max_tokens: 1 });

function ok(condition, name) {
  console.log(`${condition ? 'ok' : 'not ok'} ${++count} - ${name}`);
}

async function fails(promise, kind, code, name) {
  try {
    await promise;
    ok(false, `${name}: is refused`);
  } catch (e) {
    const found = e.code ?? e.error?.error?.type;
    ok(e instanceof kind && found === code, `${name}: ${kind.name}, ${code}` + (found === code ? '' : `, not ${e}`));
  }
}

ok((await openai(good)).choices.length === 1, 'openai: a key');
await fails(openai('none'), OpenAI.AuthenticationError, 'missing_api_key', 'openai: no key');
await fails(openai('aiq_unknown'), OpenAI.AuthenticationError, 'invalid_api_key', 'openai: an unknown key');
await fails(openai(disabled), OpenAI.PermissionDeniedError, 'disabled_api_key', 'openai: a disabled key');

ok((await anthropic({ apiKey: good })).content.length === 1, 'anthropic: a key');
ok((await anthropic({ authToken: good })).content.length === 1, 'anthropic: a key as a token');
for (const [credential, name] of [[{ apiKey: 'none' }, 'no key'], [{ apiKey: 'aiq_unknown' }, 'an unknown key']]) {
  await fails(anthropic(credential), Anthropic.AuthenticationError, 'authentication_error', `anthropic: ${name}`);
}
await fails(anthropic({ apiKey: disabled }), Anthropic.PermissionDeniedError, 'permission_error', 'anthropic: a disabled key');

console.log(`1..${count}`);
