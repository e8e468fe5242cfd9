"""A store with one number: POST / adds one and answers it, GET / answers it. It is kept in /data/count."""

import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock

COUNT = Path("/data/count")
LOCK = Lock()


def current() -> int:
    return int(COUNT.read_text()) if COUNT.exists() else 0


def add_one() -> int:
    with LOCK:
        value = current() + 1
        fresh = COUNT.with_suffix(".new")
        with fresh.open("w") as file:
            file.write(str(value))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(COUNT)  # the old number or the new one, never half of one
        return value


class Handler(BaseHTTPRequestHandler):
    def answer(self, value: int) -> None:
        body = str(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.answer(current())

    def do_POST(self) -> None:
        self.answer(add_one())

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def main() -> None:
    print(f"store: the count is {current()}", flush=True)
    ThreadingHTTPServer(("", 7000), Handler).serve_forever()


if __name__ == "__main__":
    sys.exit(main())
