"""A server before an S3 server, which counts what is asked of it and can refuse a share of the calls."""

from __future__ import annotations

import http.client
import http.server
import random
import threading

REFUSED = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
HOP = {"connection", "transfer-encoding", "content-length", "date", "server"}


class BucketProxy(http.server.ThreadingHTTPServer):
    """Passes requests on to an S3 server; refuses a share of them; counts the bytes of objects below a prefix."""

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = target.removeprefix("http://")
        self.share, self.chance = 0.0, random.Random(1)
        self.read_bytes, self.refused, self.lock = 0, 0, threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: BucketProxy

    def answer(self) -> None:
        body = self._body()
        with self.server.lock:
            refuse = self.server.chance.random() < self.server.share
            self.server.refused += refuse
        if refuse:
            self._send(503, {"Content-Type": "application/xml"}, REFUSED)
            return
        connection = http.client.HTTPConnection(self.server.target, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
        connection.request(self.command, self.path, body, headers | {"Content-Length": str(len(body))})
        response = connection.getresponse()
        content = response.read()
        if self.command == "GET" and "/videos/" in self.path:
            with self.server.lock:
                self.server.read_bytes += len(content)
        sent = {name: value for name, value in response.getheaders() if name.lower() not in HOP}
        if self.command == "HEAD" and (length := response.getheader("Content-Length")):
            sent["Content-Length"] = length
        self._send(response.status, sent, content)
        connection.close()

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


for method in ("GET", "PUT", "POST", "DELETE", "HEAD"):
    setattr(_Handler, f"do_{method}", _Handler.answer)
