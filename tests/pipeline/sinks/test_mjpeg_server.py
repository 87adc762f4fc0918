"""The page that --show serves: its content, its access control, its end."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import numpy as np
import pytest

from stillframe.errors import SinkError
from stillframe.pipeline.sinks.mjpeg_server import LONGEST_SIDE, MjpegServer
from tests.hang_guard import ends

PICTURE = np.full((90, 160, 3), 200, np.uint8)


@pytest.fixture
def show() -> Iterator[MjpegServer]:
    before = set(threading.enumerate())
    with MjpegServer() as page:
        yield page
    assert set(threading.enumerate()) == before


def get(show: MjpegServer, path: str, host: str | None = None) -> http.client.HTTPResponse:
    address = urlsplit(show.url).netloc
    connection = http.client.HTTPConnection(address, timeout=5)
    connection.putrequest("GET", path, skip_host=True)
    connection.putheader("Host", address if host is None else host)
    connection.endheaders()
    return connection.getresponse()


def jpeg_size(data: bytes) -> tuple[int, int]:
    """(height, width) as the JPEG's own header has them."""
    at = data.index(b"\xff\xc0")
    return int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])


def part(response: http.client.HTTPResponse) -> bytes:
    """The next picture of the stream."""
    assert response.readline().startswith(b"--")
    headers = {}
    while line := response.readline().strip():
        name, _, value = line.partition(b":")
        headers[name.lower()] = value.strip()
    assert headers[b"content-type"] == b"image/jpeg"
    data = response.read(int(headers[b"content-length"]))
    response.readline()
    return data


def test_the_page_is_on_this_machine_only_and_shows_the_stream(show: MjpegServer) -> None:
    assert urlsplit(show.url).hostname == "127.0.0.1"
    page = get(show, "/")
    assert page.status == 200
    assert b'src="/stream"' in page.read()


def test_the_stream_sends_the_newest_picture_and_then_each_new_one(show: MjpegServer) -> None:
    show.show(PICTURE)
    stream = get(show, "/stream")
    assert stream.status == 200
    assert jpeg_size(part(stream)) == (90, 160)
    show.show(np.zeros((50, 60, 3), np.uint8))
    assert jpeg_size(part(stream)) == (50, 60)


def test_large_pictures_are_made_smaller(show: MjpegServer) -> None:
    show.show(np.zeros((1080, 1920, 3), np.uint8))
    assert jpeg_size(part(get(show, "/stream"))) == (LONGEST_SIDE * 1080 // 1920, LONGEST_SIDE)


def test_nothing_is_encoded_while_nobody_watches(show: MjpegServer) -> None:
    show.show(PICTURE)
    show.show(np.zeros((50, 60, 3), np.uint8))
    assert jpeg_size(part(get(show, "/stream"))) == (90, 160)


@pytest.mark.parametrize("host", ["", "example.com", "example.com:80", "127.0.0.1", "[::1]:80"])
def test_other_names_for_this_machine_are_refused(show: MjpegServer, host: str) -> None:
    """What DNS rebinding would send."""
    show.show(PICTURE)
    for path in ("/", "/stream"):
        answer = get(show, path, host)
        assert answer.status == 403
        assert b"jpeg" not in answer.read()


def test_the_page_asks_for_figures_which_are_those_of_now() -> None:
    now = {"kept": "not known yet"}
    with MjpegServer(figures=lambda: now) as show:
        assert b'fetch("/figures")' in get(show, "/").read()
        assert json.loads(get(show, "/figures").read()) == {"kept": "not known yet"}
        now["kept"] = "0.991"
        answer = get(show, "/figures")
        assert answer.getheader("Content-Type") == "application/json"
        assert json.loads(answer.read()) == {"kept": "0.991"}
        assert get(show, "/figures", "evil.example").status == 403


def test_without_figures_there_are_none(show: MjpegServer) -> None:
    assert json.loads(get(show, "/figures").read()) == {}


def test_an_unknown_page_is_not_found(show: MjpegServer) -> None:
    assert get(show, "/etc/passwd").status == 404
    assert get(show, "/../../etc/passwd").status == 404


def test_closing_ends_a_stream_that_waits_and_one_that_does_not_read() -> None:
    before = set(threading.enumerate())
    show = MjpegServer()
    with show:
        show.show(PICTURE)
        waiting = get(show, "/stream")
        part(waiting)
        stuck = socket.create_connection(("127.0.0.1", urlsplit(show.url).port or 0))
        stuck.sendall(f"GET /stream HTTP/1.1\r\nHost: {urlsplit(show.url).netloc}\r\n\r\n".encode())
        silent = socket.create_connection(("127.0.0.1", urlsplit(show.url).port or 0))
        noise = np.random.default_rng(1).integers(0, 255, (720, 1280, 3), np.uint8)
        for _ in range(20):
            show.show(noise)
        ends(show.close)
    assert set(threading.enumerate()) == before
    show.close()
    for connection in (stuck, silent):
        connection.close()


def test_a_port_in_use_is_one_clear_line(show: MjpegServer) -> None:
    port = urlsplit(show.url).port or 0
    with pytest.raises(SinkError, match=rf"cannot serve a page on 127.0.0.1 port {port}: "):
        MjpegServer(port)
