"""A file server on this machine that answers as Amazon S3 does, and fails when it is told to."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Bucket:
    """What the server holds, what it is to do wrong, and what it was asked.

    Attributes
    ----------
    files : content by path, such as `/a/b.txt`.
    broken : paths of which the connection breaks off half way, and how often.
    busy : paths that are answered with 503, and how often.
    damaged : paths of which a byte is changed on the way, and how often.
    requests : path and `Range` header of each request.
    """

    files: dict[str, bytes]
    broken: dict[str, int] = field(default_factory=dict)
    busy: dict[str, int] = field(default_factory=dict)
    damaged: dict[str, int] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""

    def once(self, fault: dict[str, int], path: str) -> bool:
        """Whether a fault is due; it is then due once less."""
        due = fault.get(path, 0) > 0
        fault[path] = fault.get(path, 0) - due
        return due


@contextmanager
def serving(bucket: Bucket) -> Iterator[Bucket]:
    """Serve a bucket while the block runs; `url` says where."""

    class Handler(BaseHTTPRequestHandler):
        def version_string(self) -> str:
            return "AmazonS3"

        def log_message(self, *words: object) -> None:
            pass

        def do_GET(self) -> None:
            bucket.requests.append((self.path, self.headers.get("Range", "")))
            content = bucket.files.get(self.path)
            if content is None or bucket.once(bucket.busy, self.path):
                self.send_error(404 if content is None else 503)
                return
            etag = f'"{hashlib.md5(content).hexdigest()}"'
            start = 0
            if "Range" in self.headers and self.headers.get("If-Range") == etag:
                start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
                if start >= len(content):
                    self.send_error(416)
                    return
            body = content[start:]
            if bucket.once(bucket.damaged, self.path):
                body = bytes([body[0] ^ 1]) + body[1:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", etag)
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if bucket.once(bucket.broken, self.path) else body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    bucket.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield bucket
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
