"""A page on this machine that shows the newest picture in a browser.

A multipart JPEG stream from the standard library's HTTP server, on 127.0.0.1 only. Requests with
any other Host header are refused, which blocks DNS rebinding by web pages. A slow client gets
fewer pictures and delays nobody. Below the picture stand figures of the run, asked for anew each
second.
"""

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from stillframe.closing import Closing
from stillframe.errors import SinkError

ADDRESS = "127.0.0.1"
JPEG_QUALITY = 80
LONGEST_SIDE = 1280
_WAIT_S = 0.25
_BOUNDARY = "stillframe-picture"
PAGE = b"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>stillframe</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
  html, body { margin: 0; height: 100%; background: #101216; }
  img { width: 100%; height: 100%; object-fit: contain; display: block; }
  p { position: fixed; left: 0; bottom: 0; margin: 0; padding: .3rem .7rem; color: #e6e9ed;
    background: #101216cc; font: 14px system-ui, sans-serif; white-space: pre-wrap; }
  p:empty { display: none; }
</style>
<img src="/stream" alt="the newest frame with its results">
<p></p>
<script>
  const line = document.querySelector("p");
  setInterval(async () => {
    try {
      const figures = await (await fetch("/figures")).json();
      line.textContent = Object.entries(figures).map(each => each.join(" ")).join("   ");
    } catch { }
  }, 1000);
</script>
</html>
"""


class MjpegServer(Closing):
    """Serves the newest picture until it is closed."""

    url: str
    """The address of the page."""

    def __init__(self, port: int = 0, figures: Callable[[], Mapping[str, str]] = dict) -> None:
        """figures: name -> text of what stands below the picture; called by threads of its own."""
        self.figures = figures
        self._condition = threading.Condition()
        self._picture: bytes = b""
        self._number = 0
        self._closed = False
        try:
            self._server = _PageServer((ADDRESS, port), _PageHandler, self)
        except OSError as error:
            raise SinkError(
                f"--show: cannot serve a page on {ADDRESS} port {port}: {error.strerror}"
            ) from error
        self.url = f"http://{ADDRESS}:{self._server.server_address[1]}/"
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": _WAIT_S},
            name="stillframe-show",
            daemon=True,
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def show(self, image: NDArray[np.uint8]) -> None:
        """Show (H, W, 3) uint8 RGB, scaled down to LONGEST_SIDE. Free while no browser watches."""
        if self._picture and not self._server.watchers:
            return
        height, width = image.shape[:2]
        if max(height, width) > LONGEST_SIDE:
            scale = LONGEST_SIDE / max(height, width)
            size = max(1, round(width * scale)), max(1, round(height * scale))
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        flipped = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        ok, jpeg = cv2.imencode(".jpg", flipped, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        if not ok:
            raise SinkError(f"--show: a picture of {width}x{height} cannot be coded as JPEG")
        with self._condition:
            self._picture = jpeg.tobytes()
            self._number += 1
            self._condition.notify_all()

    def wait_for_newer(self, number: int) -> tuple[int, bytes] | None:
        """Wait for a picture with a higher number; -> (its number, JPEG), None once closed."""
        with self._condition:
            while self._number <= number and not self._closed:
                self._condition.wait(_WAIT_S)
            return None if self._closed else (self._number, self._picture)

    def close(self) -> None:
        """End every stream, the server and its threads. May be called twice."""
        with self._condition:
            if self._closed:
                return
            self._closed = True
            self._condition.notify_all()
        if self._thread.ident is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.end_connections()
        self._server.server_close()


class _PageServer(ThreadingHTTPServer):
    daemon_threads = False  # server_close waits for them
    allow_reuse_address = True

    def __init__(
        self, address: tuple[str, int], handler: type["_PageHandler"], pictures: MjpegServer
    ) -> None:
        self.pictures = pictures
        self.watchers = 0
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(address, handler)

    @property
    def hosts(self) -> set[str]:
        port = self.server_address[1]
        return {f"{name}:{port}" for name in (ADDRESS, "localhost")}

    def add_watchers(self, change: int) -> None:
        with self._lock:
            self.watchers += change

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def end_connections(self) -> None:
        """Unblock every handler that waits for its client."""
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that went away."""


class _PageHandler(BaseHTTPRequestHandler):
    server: _PageServer
    server_version = "stillframe"
    sys_version = ""
    timeout = 10.0

    PAGES: ClassVar[dict[str, str]] = {
        "/": "send_page",
        "/stream": "send_stream",
        "/figures": "send_figures",
    }

    def do_GET(self) -> None:
        if self.headers.get("Host", "") not in self.server.hosts:
            self.send_error(HTTPStatus.FORBIDDEN, "This page answers to its own address only")
            return
        page = self.PAGES.get(self.path.partition("?")[0])
        if page is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with contextlib.suppress(OSError):
            getattr(self, page)()

    def send_page(self) -> None:
        self._send_whole("text/html; charset=utf-8", PAGE)

    def send_figures(self) -> None:
        figures = dict(self.server.pictures.figures())
        self._send_whole("application/json", json.dumps(figures).encode())

    def _send_whole(self, kind: str, body: bytes) -> None:
        self._head(kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_stream(self) -> None:
        self._head(f"multipart/x-mixed-replace; boundary={_BOUNDARY}")
        self.end_headers()
        self.server.add_watchers(1)
        try:
            number = 0
            while (newer := self.server.pictures.wait_for_newer(number)) is not None:
                number, picture = newer
                head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\n"
                head += f"Content-Length: {len(picture)}\r\n\r\n"
                self.wfile.write(head.encode() + picture + b"\r\n")
        finally:
            self.server.add_watchers(-1)

    def _head(self, kind: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")

    def log_message(self, format: str, *args: Any) -> None:
        """Log no requests."""
