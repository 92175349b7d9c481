"""A web server on this machine with one file, well-behaved or not."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

BODY = np.random.default_rng(0).bytes(300_000)


@dataclass
class Site:
    """A web server with one file, and what it was asked for."""

    address: str = ""  # whatever is asked for there is the file
    name: str = "photos.zip"
    body: bytes = BODY
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"ETag": '"one"'})
    ranges: bool = True  # whether it knows Range
    range_start: int | None = None  # the wrong place to resume from
    cut: int | None = None  # send so many bytes, then drop the connection
    tell_length: bool = True
    asked: list[tuple[str | None, str | None]] = field(default_factory=list)  # Range, If-Range

    @property
    def url(self) -> str:
        return f"{self.address}/{self.name}"

    def answer(self, wanted: str | None, condition: str | None) -> tuple[int, bytes, int]:
        """Status, body and where in the file the body starts."""
        self.asked.append((wanted, condition))
        same = condition in (self.headers.get("ETag"), self.headers.get("Last-Modified"))
        if self.status != 200 or wanted is None or not self.ranges or not same:
            return self.status, self.body, 0
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(self.body):
            return 416, b"", 0
        start = start if self.range_start is None else self.range_start
        return 206, self.body[start:], start


@contextlib.contextmanager
def serving() -> Iterator[Site]:
    """The site, while the block runs."""
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body, start = site.answer(self.headers["Range"], self.headers["If-Range"])
            self.send_response(status)
            for name, value in site.headers.items():
                self.send_header(name, value)
            if site.tell_length:
                self.send_header("Content-Length", str(len(body)))
            if status == 206:
                end = start + len(body) - 1
                self.send_header("Content-Range", f"bytes {start}-{end}/{len(site.body)}")
            self.end_headers()
            self.wfile.write(body[: site.cut])

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    site.address = f"http://127.0.0.1:{server.server_port}"
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("no_proxy", "*")
            yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
