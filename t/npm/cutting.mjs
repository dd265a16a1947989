// A network that misbehaves.

import net from 'node:net';

function numbers(state) {
  return (n) => (state = (state * 1103515245 + 12345) % 2 ** 31) % n;
}

// A proxy to a port of 127.0.0.1. Answers to requests for /v1/ and /ws come in pieces of a few
// bytes, and each connection with one ends after at least and at most so many of them: by the
// seed, the n-th always after as many. server.cuts counts the ends.
export function cutting(port, seed, most, least = 400) {
  const lengths = numbers(seed), pieces = numbers(seed);
  const server = net.createServer((near) => {
    const far = net.connect(port, '127.0.0.1');
    let left = Infinity;
    const end = () => {
      near.destroy();
      far.destroy();
    };
    near.on('data', (data) => {
      if (left === Infinity && / \/(v1\/|ws\b)/.test(data)) left = least + lengths(most);
      far.write(data);
    });
    far.on('data', (data) => {
      while (data.length && left > 0) {
        const n = Math.min(1 + pieces(200), data.length, left);
        near.write(data.subarray(0, n));
        data = data.subarray(n);
        left -= n;
      }
      if (left <= 0 && !near.destroyed) {
        server.cuts++;
        end();
      }
    });
    for (const side of [near, far]) side.on('error', end).on('close', end);
  });
  server.cuts = 0;
  return server;
}
