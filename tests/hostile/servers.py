"""Servers on the loopback that misbehave on purpose: silent, stalling, dropping, repeating."""

import base64
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

from stillframe.pipeline.media.frame import Frame
from tests.hostile import media

# what a server does with its n-th connection: it returns when it wants to hang up
Conduct = Callable[["Server", socket.socket, int], None]


class Server:
    """Listens on a free port of 127.0.0.1 and calls `conduct` for each connection."""

    def __init__(self, conduct: Conduct) -> None:
        self.sent = 0  # frames handed to the network so far, over all connections
        self.connections = 0
        self.requests: list[str] = []
        self.stopping = threading.Event()
        self._conduct = conduct
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.05)
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._listen)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        self.stopping.set()
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive()

    def _listen(self) -> None:
        with self._listener:
            while not self.stopping.is_set():
                try:
                    connection, _ = self._listener.accept()
                except TimeoutError:
                    continue
                thread = threading.Thread(target=self._serve, args=(connection, self.connections))
                self.connections += 1
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        with connection:
            connection.settimeout(5)
            try:
                self._conduct(self, connection, number)
            except OSError:
                return  # the client hung up

    def send_frames(
        self,
        connection: socket.socket,
        numbers: Iterable[int],
        rate: float = 100.0,
        head: bytes | None = None,
    ) -> None:
        """Send numbered pictures as y4m, `rate` a second."""
        connection.sendall(media.y4m_bytes(0)[0] if head is None else head)
        for number in numbers:
            if self.stopping.is_set():
                return
            connection.sendall(frame_bytes(number))
            self.sent += 1
            time.sleep(1 / rate)

    def request(self, connection: socket.socket) -> str:
        """The next request's header, as in HTTP and RTSP; empty once the client hung up."""
        text = b""
        while b"\r\n\r\n" not in text:
            part = connection.recv(4096)
            if not part:
                return ""
            text += part
        self.requests.append(text.decode())
        return text.decode()


_FRAMES: dict[int, bytes] = {}


def frame_bytes(number: int) -> bytes:
    """One y4m frame that carries `number`."""
    if number not in _FRAMES:
        import av

        frame = av.VideoFrame.from_ndarray(media.picture(number % 256), format="rgb24")
        _FRAMES[number] = b"FRAME\n" + frame.reformat(format="yuv420p").to_ndarray().tobytes()
    return _FRAMES[number]


def silent(server: Server, connection: socket.socket, number: int) -> None:
    """Accept and never answer."""
    server.stopping.wait()


def http_answer(body: bytes, kind: str, status: str = "200 OK", extra: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{extra}"
    return f"{head}Connection: close\r\n\r\n".encode() + body


def http_pages(pages: dict[str, bytes]) -> Conduct:
    """Answer each path with its listed response."""

    def conduct(server: Server, connection: socket.socket, number: int) -> None:
        path = server.request(connection).split(" ")[1]
        connection.sendall(pages.get(path, http_answer(b"", "text/plain", "404 Not Found")))

    return conduct


def rtsp(stream: bytes, password: str | None = None) -> Conduct:
    """An RTSP camera: MPEG-TS in RTP over the same connection, at most 200 packets a second."""

    def conduct(server: Server, connection: socket.socket, number: int) -> None:
        while text := server.request(connection):
            method, sequence = text.split(" ")[0], re.findall(r"CSeq: (\d+)", text)[0]
            head, body = f"CSeq: {sequence}\r\n", ""
            credentials = base64.b64encode((password or "").encode()).decode()
            if password is not None and f"Basic {credentials}" not in text and method != "OPTIONS":
                head += 'WWW-Authenticate: Basic realm="camera"\r\n'
                connection.sendall(f"RTSP/1.0 401 Unauthorized\r\n{head}\r\n".encode())
                continue
            if method == "OPTIONS":
                head += "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
            elif method == "DESCRIBE":
                body = (
                    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"
                    "m=video 0 RTP/AVP 33\r\na=control:track0\r\n"
                )
                head += f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
            elif method == "SETUP":
                head += "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
            else:
                head += "Session: 1\r\n"
            connection.sendall(f"RTSP/1.0 200 OK\r\n{head}\r\n{body}".encode())
            if method == "PLAY":
                send_rtp(server, connection, stream)
                return

    return conduct


def send_rtp(server: Server, connection: socket.socket, stream: bytes) -> None:
    size = 188 * 7
    for count, start in enumerate(range(0, len(stream), size)):
        header = struct.pack(">BBHII", 0x80, 33, count & 0xFFFF, count * 900, 7)
        packet = header + stream[start : start + size]
        connection.sendall(b"$\0" + struct.pack(">H", len(packet)) + packet)
        if server.stopping.wait(0.005):
            return


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def readers() -> list[threading.Thread]:
    """The reading threads of sources that are not closed yet."""
    return [thread for thread in threading.enumerate() if thread.name == "stillframe-reader"]


def taken(source: Any, amount: int) -> list[Frame]:
    """The next frames of a source."""
    return [next(source) for _ in range(amount)]
