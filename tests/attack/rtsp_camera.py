"""A real RTSP camera that fails on command: Debian's GStreamer RTSP server, a process of its own.

    /usr/bin/python3 tests/attack/rtsp_camera.py PORT [WIDTHxHEIGHT] [RATE]
    /usr/bin/python3 tests/attack/rtsp_camera.py --check

Serves rtsp://127.0.0.1:PORT/camera, H.264, a picture whose bar moves a step in each frame. Commands
come on standard input, one a line, and each is answered with "ok": `stall` (connections stay open,
nothing comes), `freeze` (the same picture again and again), `play` (as at first), `size
WIDTHxHEIGHT` (from the next picture on). Leaps of the time stamps are made by rtsp_proxy.py. Ends
when standard input closes. It is run by the system's Python, which has the bindings. --check
fails where something is missing that it needs; .ci/run names Debian's packages.
"""

import sys
import threading

import gi  # type: ignore[import-untyped, import-not-found, unused-ignore]

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # type: ignore  # noqa: E402, PGH003

PIPELINE = (
    "( appsrc name=pictures is-live=true format=time do-timestamp=false block=false"
    " ! videoconvert ! video/x-raw,format=I420 ! x264enc tune=zerolatency"
    " speed-preset=ultrafast key-int-max=15 name=encoder"
    " ! rtph264pay name=pay0 pt=96 config-interval=1 )"
)


ELEMENTS = ("appsrc", "videoconvert", "x264enc", "rtph264pay")


class Camera(GstRtspServer.RTSPMediaFactory):  # type: ignore[misc]
    """One stream that all clients share; pictures are made by a timer."""

    def __init__(self, width: int, height: int, rate: int) -> None:
        super().__init__()
        self.width, self.height, self.rate = width, height, rate
        self.state = "play"
        self.number = 0
        self.source = None
        self.set_shared(True)
        self.connect("media-configure", self._configured)
        GLib.timeout_add(1000 // rate, self._push)

    def do_create_element(self, url: object) -> object:
        return Gst.parse_launch(PIPELINE)

    def _configured(self, factory: object, media: object) -> None:
        self.source = media.get_element().get_by_name("pictures")  # type: ignore[attr-defined]
        media.connect("unprepared", self._unprepared)  # type: ignore[attr-defined]
        self.began = GLib.get_monotonic_time()
        self._announce()

    def _unprepared(self, media: object) -> None:
        self.source = None

    def _announce(self) -> None:
        text = (
            f"video/x-raw,format=RGB,width={self.width},height={self.height},"
            f"framerate={self.rate}/1"
        )
        if self.source is not None:
            self.source.set_property("caps", Gst.Caps.from_string(text))

    def resize(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._announce()

    def _push(self) -> bool:
        if self.source is None or self.state == "stall":
            return True
        if self.state != "freeze":
            self.number += 1
        buffer = Gst.Buffer.new_wrapped(self._picture())
        buffer.pts = (GLib.get_monotonic_time() - self.began) * 1000
        buffer.duration = Gst.SECOND // self.rate
        self.source.emit("push-buffer", buffer)
        return True

    def _picture(self) -> bytes:
        """A grey picture with a bright bar 16 columns wide; rows are equal."""
        row = bytearray(b"\x60\x70\x80" * self.width)
        at = 3 * (self.number * 4 % max(1, self.width - 16))
        row[at : at + 48] = b"\xf0" * 48
        return bytes(row) * self.height


def listen(camera: Camera, loop: "GLib.MainLoop") -> None:
    for line in sys.stdin:
        word, _, value = line.strip().partition(" ")
        if word in ("stall", "freeze", "play"):
            camera.state = word
        elif word == "size":
            GLib.idle_add(camera.resize, *map(int, value.split("x")))
        print("ok" if word in ("stall", "freeze", "play", "size") else "?", flush=True)
    loop.quit()


def main() -> None:
    Gst.init(None)
    if sys.argv[1] == "--check":
        absent = [name for name in ELEMENTS if Gst.ElementFactory.find(name) is None]
        raise SystemExit(f"no {', '.join(absent)}" if absent else 0)
    port = sys.argv[1]
    size = sys.argv[2] if len(sys.argv) > 2 else "320x192"
    rate = int(sys.argv[3]) if len(sys.argv) > 3 else 15
    width, height = map(int, size.split("x"))
    server = GstRtspServer.RTSPServer.new()
    server.set_address("127.0.0.1")
    server.set_service(port)
    camera = Camera(width, height, rate)
    server.get_mount_points().add_factory("/camera", camera)
    server.attach(None)
    loop = GLib.MainLoop()
    threading.Thread(target=listen, args=(camera, loop), daemon=True).start()
    print("ready", flush=True)
    loop.run()


if __name__ == "__main__":
    main()
