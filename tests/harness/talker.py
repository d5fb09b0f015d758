"""An ordinary program that talks over TCP all the time and writes down what went wrong; it knows nothing of a mesh.

    talker.py serve PORT                             echo on every address
    talker.py short HOST PORT MARKER INTERVAL        a new connection each time
    talker.py long HOST PORT MARKER INTERVAL         one connection for as long as it holds, then the next

It writes a JSON line for each failure, and at its end (SIGTERM) one with the number of exchanges that went well.
"""

import contextlib
import json
import signal
import socket
import socketserver
import sys
import time

TIMEOUT_SECONDS = 8.0


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while data := self.request.recv(65536):
                self.request.sendall(data)


class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


def exchange(sock: socket.socket, marker: bytes) -> None:
    sock.sendall(marker)
    received = b""
    while len(received) < len(marker):
        data = sock.recv(65536)
        if not data:
            raise ConnectionError("it ended without the whole answer")
        received += data
    if received != marker:
        raise ConnectionError("the answer is another")


def talk(kind: str, host: str, port: int, marker: bytes, interval: float) -> None:
    good, sock = 0, None
    try:
        while True:
            try:
                if sock is None:
                    sock = socket.create_connection((host, port), TIMEOUT_SECONDS)
                exchange(sock, marker)
                good += 1
                if kind == "short":
                    sock.close()
                    sock = None
            except OSError as error:
                print(json.dumps({"at": time.time(), "error": str(error)}), flush=True)
                if sock is not None:
                    sock.close()
                    sock = None
            time.sleep(interval)
    finally:
        print(json.dumps({"good": good}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        Server(("::", int(sys.argv[2])), Echo).serve_forever()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    talk(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4].encode(), float(sys.argv[5]))
