"""Servers of files on the loopback interface, with faults."""

import base64
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote


class FileServer:
    """An HTTP server of a directory; what goes wrong with a file, in turn, is what ``faults`` says."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.faults: dict[str, deque[str]] = defaultdict(deque)
        """By name of file: what happens to the next requests for it. slow, truncate, wrong (bytes), longer, reset (in
        the middle), redirect, or an HTTP status; one that ends with ! stays."""
        self.asked: Counter[str] = Counter()
        """Requests by name of file."""
        self.password = ""
        """What the user ``me`` must know; nothing needs none."""
        self.sending = 0
        """Answers under way."""
        self.port = 0
        self.pause_seconds = 0.0
        """How long a slow answer takes."""
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/sets/flowers"

    def start(self) -> None:
        """Serve, on the same port as before if there was one."""
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.sending += 1
                try:
                    owner.answer(self)
                finally:
                    owner.sending -= 1

            def log_message(self, *_: Any) -> None:
                return

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, *_: Any) -> None:
                return  # a client that has hung up

        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        name = unquote(request.path.removeprefix("/sets/flowers/").partition("?")[0])
        self.asked[name] += 1
        if self.password:
            expected = base64.b64encode(f"me:{self.password}".encode()).decode()
            if request.headers.get("Authorization") != f"Basic {expected}":
                request.send_error(401)
                return
        planned = self.faults[name]
        fault = planned[0] if planned and planned[0].endswith("!") else planned.popleft() if planned else ""
        fault = fault.rstrip("!")
        path = self.directory / name
        if fault.isdigit() or not path.exists():
            request.send_error(int(fault or 404))
            return
        if fault == "redirect":
            request.send_response(302)
            request.send_header("Location", f"{request.path}?signature=secret-signature")
            request.end_headers()
            return
        data = path.read_bytes()
        if fault == "wrong":
            data = bytes([data[0] ^ 1]) + data[1:]
        if fault == "longer":
            data += b"x" * 1000
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if fault == "reset":
            request.wfile.write(data[:100])
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            return
        if fault == "slow":
            for start in range(0, len(data), max(1, len(data) // 20)):
                request.wfile.write(data[start : start + max(1, len(data) // 20)])
                time.sleep(self.pause_seconds / 20)
            return
        request.wfile.write(data[: len(data) // 2] if fault == "truncate" else data)


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[FileServer]:
    server = FileServer(directory)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def s3_server(log: Path) -> Iterator[str]:
    """The address of an S3 server of its own process, empty."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with log.open("wb") as output:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONWARNINGS": ""}
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
