// What the official SDK makes of a server that wants tokens:
//     node openai_auth.mjs BASE_URL GOOD POOR
// GOOD passes; POOR is a good token that does not permit it. Prints TAP.

import OpenAI from 'openai';

const [baseURL, good, poor] = process.argv.slice(2);
let count = 0;

function ok(condition, name) {
  console.log(`${condition ? 'ok' : 'not ok'} ${++count} - ${name}`);
}

function list(apiKey) {
  return new OpenAI({ baseURL, apiKey, maxRetries: 2 }).models.list();
}

async function fails(promise, kind, status, code, name) {
  try {
    await promise;
    ok(false, `${name}: is refused`);
  } catch (e) {
    ok(e instanceof kind && e.status === status && e.code === code,
      `${name}: ${kind.name}, ${status}, ${code}` + (e.code === code ? '' : `, not ${e}`));
  }
}

ok((await list(good)).data.length > 0, 'a good token');
await fails(list('none'), OpenAI.AuthenticationError, 401, 'invalid_token', 'no token at all');
await fails(list(good.slice(0, -4) + 'AAAA'), OpenAI.AuthenticationError, 401, 'invalid_token', 'another signature');
await fails(list(poor), OpenAI.PermissionDeniedError, 403, 'permission_denied', 'a token that permits nothing');

console.log(`1..${count}`);
