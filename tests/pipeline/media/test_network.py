"""Network sources of every protocol, and what they must not open."""

import socket
import threading
import time
from collections.abc import Iterator
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import av
import pytest

from stillframe.errors import SourceError
from stillframe.pipeline.media.connection import DeniedError
from stillframe.pipeline.media.open_source import SourceState, open_source
from tests.hostile import media, servers
from tests.hostile.media import number_of
from tests.hostile.servers import Server, free_port, readers, taken


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    deadline = time.monotonic() + 5
    while readers() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not readers()


@pytest.mark.parametrize("password", [None, "admin:hunter22"])
def test_an_rtsp_camera_is_read(password: str | None) -> None:
    stream = media.stream_bytes(100)
    with Server(servers.rtsp(stream, password)) as server:
        credentials = f"{password}@" if password else ""
        spec = f"rtsp://{credentials}127.0.0.1:{server.port}/live?key=abcdef"
        with open_source(spec, timeout_s=5) as source:
            assert source.info.spec == f"rtsp://127.0.0.1:{server.port}/live"
            assert (source.info.kind, source.info.live) == ("network", True)
            got = taken(source, 10)
        numbers = [number_of(frame.image) for frame in got]
    assert numbers == sorted(set(numbers))
    for secret in ("hunter22", "abcdef"):
        assert secret not in f"{source!r} {source.info!r}"


def test_an_rtsp_camera_that_wants_another_password_is_one_clear_error() -> None:
    with (
        Server(servers.rtsp(b"", "admin:right-one")) as server,
        pytest.raises(SourceError, match=r"401|unauthorized|authorization") as caught,
    ):
        open_source(f"rtsp://admin:wrong-one@127.0.0.1:{server.port}/live", timeout_s=3)
    assert "wrong-one" not in str(caught.value)
    assert caught.type is DeniedError


def test_a_stream_that_was_open_before_is_probed_in_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probing holds back the first pictures, and a camera that is back should be seen soon."""
    probed: list[str | None] = []
    connect = av.open

    def recorded(url: str, *arguments: Any, **options: Any) -> Any:
        probed.append(options["options"].get("analyzeduration"))
        return connect(url, *arguments, **options)

    def hangs_up(server: Server, connection: socket.socket, number: int) -> None:
        server.send_frames(connection, range(5))

    monkeypatch.setattr(av, "open", recorded)
    with Server(hangs_up) as server, open_source(f"tcp://127.0.0.1:{server.port}") as source:
        taken(source, 12)
        assert source.reconnects > 0
    assert probed[:2] == [None, "100000"]


def test_mpeg_ts_over_udp_is_read() -> None:
    port, stop = free_port(), threading.Event()
    stream = media.stream_bytes(100)

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for start in count(0, 188 * 7):
                at = start % len(stream)
                sender.sendto(stream[at : at + 188 * 7], ("127.0.0.1", port))
                if stop.wait(0.004):
                    return

    sender = threading.Thread(target=send)
    sender.start()
    try:
        with open_source(f"udp://127.0.0.1:{port}", timeout_s=5) as source:
            got = taken(source, 10)
            assert (source.info.width, source.info.height) == (96, 64)
    finally:
        stop.set()
        sender.join()
    assert all(a.time_s < b.time_s for a, b in pairwise(got))


def test_a_film_over_http_is_not_live_and_keeps_every_frame(tmp_path: Path) -> None:
    film = media.clip(tmp_path / "a.mp4", 40, options={"movflags": "faststart"}).read_bytes()
    pages = {"/a.mp4?key=abc": servers.http_answer(film, "video/mp4")}
    with (
        Server(servers.http_pages(pages)) as server,
        open_source(f"http://127.0.0.1:{server.port}/a.mp4?key=abc", timeout_s=3) as source,
    ):
        assert not source.info.live
        assert source.info.frame_count == 40
        assert [number_of(frame.image) for frame in source] == list(range(40))
        assert source.state is SourceState.ENDED


def test_a_web_camera_without_a_clock_is_timed_by_arrival(tmp_path: Path) -> None:
    pictures = []
    for number in range(12):
        frame = av.VideoFrame.from_ndarray(media.picture(number), format="rgb24")
        frame.save(str(tmp_path / "a.jpg"))
        pictures.append((tmp_path / "a.jpg").read_bytes())

    def conduct(server: Server, connection: socket.socket, number: int) -> None:
        server.request(connection)
        head = "HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"
        connection.sendall(head.encode())
        for jpeg in pictures:
            part = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            connection.sendall(part.encode() + jpeg + b"\r\n")
            time.sleep(0.1)  # ten a second

    with (
        Server(conduct) as server,
        open_source(f"http://127.0.0.1:{server.port}/video", timeout_s=3) as source,
    ):
        assert source.info.live
        assert source.info.rate is None
        got = taken(source, 8)
    numbers = [number_of(frame.image) for frame in got]
    assert numbers == sorted(set(numbers))
    apart = (got[-1].time_s - got[0].time_s) / (numbers[-1] - numbers[0])
    assert apart == pytest.approx(0.1, rel=0.3)


@pytest.mark.parametrize("status", ["404 Not Found", "403 Forbidden", "500 Oops"])
def test_an_http_refusal_is_one_clear_error(status: str) -> None:
    answer = servers.http_answer(b"", "text/plain", status)
    with (
        Server(servers.http_pages({"/x": answer})) as server,
        pytest.raises(SourceError, match=f"/x: cannot be opened: .*{status[0]}"),
    ):
        open_source(f"http://127.0.0.1:{server.port}/x", timeout_s=3)


def test_a_playlist_on_disk_cannot_reach_the_network(tmp_path: Path) -> None:
    segment = media.stream_bytes(20)
    with Server(servers.http_pages({})) as server:
        head = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.8,\n"
        (tmp_path / "out.m3u8").write_text(
            f"{head}http://127.0.0.1:{server.port}/a.ts\n#EXT-X-ENDLIST\n"
        )
        with pytest.raises(SourceError):
            open_source(tmp_path / "out.m3u8")
        assert server.connections == 0
    (tmp_path / "a.ts").write_bytes(segment)
    (tmp_path / "in.m3u8").write_text(f"{head}a.ts\n#EXT-X-ENDLIST\n")
    with open_source(tmp_path / "in.m3u8") as source:  # within its own folder it may
        assert [number_of(frame.image) for frame in source] == list(range(20))


def test_the_network_cannot_reach_the_disk(tmp_path: Path) -> None:
    (tmp_path / "a.ts").write_bytes(media.stream_bytes(20))
    head = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.8,\n"
    playlist = f"{head}file://{tmp_path}/a.ts\n#EXT-X-ENDLIST\n".encode()
    pages = {
        "/x.m3u8": servers.http_answer(playlist, "application/vnd.apple.mpegurl"),
        "/moved": servers.http_answer(
            b"", "text/plain", "302 Found", f"Location: file://{tmp_path}/a.ts\r\n"
        ),
    }
    with Server(servers.http_pages(pages)) as server:
        for page in pages:
            with pytest.raises(SourceError):
                open_source(f"http://127.0.0.1:{server.port}{page}", timeout_s=3)
