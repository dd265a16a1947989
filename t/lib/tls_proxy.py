# A proxy that is spoken to over TLS and knows CONNECT only.
#
#     python3 tls_proxy.py certificate key
#
# Prints its port, then a line for each tunnel: the first line of what asks for it.

import socket
import ssl
import sys
import threading


def pump(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    sink.close()


def serve(client):
    try:
        client = context.wrap_socket(client, server_side=True)
        head = b''
        while not head.endswith(b'\r\n\r\n'):
            head += client.recv(1)
        line = head.split(b'\r\n')[0].decode()
        host, port = line.split()[1].rsplit(':', 1)
        server = socket.create_connection((host, int(port)))
    except OSError:
        client.close()
        return
    print(line, flush=True)
    client.sendall(b'HTTP/1.1 200 OK\r\n\r\n')
    threading.Thread(target=pump, args=(client, server), daemon=True).start()
    pump(server, client)


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
context.set_alpn_protocols(['h2', 'http/1.1'])  # as a proxy may; nobody shall take h2 here
listener = socket.create_server(('127.0.0.1', 0))
print(listener.getsockname()[1], flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
