// npm's ws against echo: node websocket.mjs URL [CERTIFICATE]
// A line of TAP for each thing that must hold.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { WebSocket } from 'ws';

const [url, certificate] = process.argv.slice(2);
const ca = certificate && readFileSync(certificate);
let n = 0;

const open = async (options = {}) => {
    const ws = new WebSocket(url, options.protocols ?? [], { ca, ...options });
    await once(ws, 'open');
    return ws;
};

const echo = async (ws, data) => {
    const back = once(ws, 'message');
    ws.send(data);
    const [got, binary] = await back;
    return binary ? got : got.toString();
};

const holds = async (name, test) => {
    try {
        await test();
        console.log(`ok ${++n} - ${name}`);
    } catch (e) {
        console.log(`not ok ${++n} - ${name}\n# ${e.stack.replaceAll('\n', '\n# ')}`);
    }
};

for (const perMessageDeflate of [false, true]) {
    const how = perMessageDeflate ? 'compressed' : 'plain';
    const ws = await open({ perMessageDeflate });

    await holds(`${how}: what was agreed on`, () =>
        assert.equal(ws.extensions, perMessageDeflate ? 'permessage-deflate' : ''));
    await holds(`${how}: text`, async () => assert.equal(await echo(ws, 'grüß dich'), 'grüß dich'));
    await holds(`${how}: bytes`, async () => {
        const bytes = randomBytes(10000);
        assert.deepEqual(await echo(ws, bytes), bytes);
    });
    for (const size of [0, 1, 125, 126, 65535, 65536, 300000, 1 << 20]) {
        await holds(`${how}: ${size} bytes of text`, async () => {
            const text = 'all work and no play '.repeat(size / 21 + 1).slice(0, size);
            assert.equal(await echo(ws, text), text);
        });
    }
    await holds(`${how}: a thousand at once, in their order`, async () => {
        const got = [];
        const all = new Promise((resolve) => ws.on('message', (data) => {
            got.push(data.toString());
            if (got.length === 1000) resolve();
        }));
        const sent = Array.from({ length: 1000 }, (_, i) => `message ${i} ${'x'.repeat(i)}`);
        sent.forEach((text) => ws.send(text));
        await all;
        ws.removeAllListeners('message');
        assert.deepEqual(got, sent);
    });
    await holds(`${how}: fragments`, async () => {
        const back = once(ws, 'message');
        ws.send('one ', { fin: false });
        ws.send('two ', { fin: false });
        ws.send('three', { fin: true });
        assert.equal((await back)[0].toString(), 'one two three');
    });
    await holds(`${how}: a ping`, async () => {
        const pong = once(ws, 'pong');
        ws.ping('are you there');
        assert.equal((await pong)[0].toString(), 'are you there');
    });
    await holds(`${how}: the end`, async () => {
        const end = once(ws, 'close');
        ws.close(4000, 'enough');
        const [code, reason] = await end;
        assert.deepEqual([code, reason.toString()], [4000, 'enough']);
    });
}

await holds('a protocol', async () => {
    const ws = await open({ protocols: ['other', 'chat'] });
    assert.equal(ws.protocol, 'chat');
    ws.terminate();
});
await holds('a message that is too long', async () => {
    const ws = await open({ perMessageDeflate: true });
    const end = once(ws, 'close');
    ws.send('x'.repeat((1 << 20) + 1));
    assert.equal((await end)[0], 1009);
});
console.log(`1..${n}`);
