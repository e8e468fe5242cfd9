"""A small API: GET / asks the store for the next number and answers one line with it."""

import socket
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import URLError
from urllib.request import Request, urlopen

STORE = "http://store:7000/"
PATIENCE = 5.0  # seconds for a store that has just been started to listen


def next_number() -> int:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with urlopen(Request(STORE, method="POST"), timeout=PATIENCE) as response:
                return int(response.read())
        except URLError as error:
            refused = isinstance(error.reason, ConnectionRefusedError)  # nothing was asked yet: ask again
            if not refused or time.monotonic() > deadline:
                raise
        time.sleep(0.05)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/healthz":
            self.answer(200, "ok\n")
            return
        try:
            count = next_number()
        except OSError as error:
            self.answer(503, f"the store does not answer: {error}\n")
            return
        print(f"api: request {count} from {self.client_address[0]}", flush=True)
        self.answer(200, f"{count} requests so far, says {socket.gethostname()}\n")

    def answer(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


if __name__ == "__main__":
    print("api: listening on 8000", flush=True)
    sys.exit(ThreadingHTTPServer(("", 8000), Handler).serve_forever())
