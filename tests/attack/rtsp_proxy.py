"""Stands between an RTSP client and a camera, and makes the camera's time stamps leap.

A camera whose clock is set does this. GStreamer's server cannot be made to: its sink waits until
the clock has reached a picture's time.
"""

import contextlib
import socket
import struct
import threading
from typing import Self

CLOCK_HZ = 90_000
"""Of RTP time stamps of video."""
MASK = (1 << 32) - 1


class RtspProxy:
    """Listens on a free port of 127.0.0.1 and passes each connection on to the camera's port."""

    def __init__(self, camera_port: int) -> None:
        self._camera_port = camera_port
        self._shift = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = [self._listener]
        self._threads = [threading.Thread(target=self._listen, daemon=True)]

    def jump(self, seconds: float) -> None:
        """Shift the time stamps of all later pictures."""
        self._shift += round(seconds * CLOCK_HZ)

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in list(self._sockets):
            _end(each)
        for thread in list(self._threads):
            thread.join(5)

    def _listen(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            camera = socket.create_connection(("127.0.0.1", self._camera_port))
            self._sockets += [client, camera]
            for work in (self._pass_requests, self._pass_answers):
                thread = threading.Thread(target=work, args=(client, camera), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pass_requests(self, client: socket.socket, camera: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                camera.sendall(data)
        _end(camera)

    def _pass_answers(self, client: socket.socket, camera: socket.socket) -> None:
        """Answers go through as they are; packets of channel 0 get other time stamps."""
        with contextlib.suppress(OSError), camera.makefile("rb") as stream:
            while first := stream.read(1):
                data = first + (stream.read(3) if first == b"$" else stream.readline())
                if first == b"$":
                    _, channel, size = struct.unpack(">cBH", data)
                    packet = bytearray(stream.read(size))
                    if channel == 0:
                        (stamp,) = struct.unpack_from(">I", packet, 4)
                        struct.pack_into(">I", packet, 4, (stamp + self._shift) & MASK)
                    data += packet
                client.sendall(data)
        _end(client)


def _end(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
