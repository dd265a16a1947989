// The peer of sse.rate: what a few lines of Node do. GET /…?every=20ms is answered with a
// numbered event at that pace, which says when it was made. Prints its port.

import http from 'node:http';

const server = http.createServer((request, response) => {
  const every = parseInt(new URL(request.url, 'http://localhost').searchParams.get('every'), 10);
  let n = 0;

  response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' });
  const timer = setInterval(() => {
    if (!response.writableNeedDrain) {
      n++;
      response.write(`id: ${n}\ndata: {"n":${n},"ns":${process.hrtime.bigint()}}\n\n`);
    }
  }, every);
  response.on('close', () => clearInterval(timer));
});
server.listen(0, '127.0.0.1', 4096, () => console.log(server.address().port));
