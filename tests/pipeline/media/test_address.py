"""Parsing a source's text, and showing it without its secrets."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillframe import sample_videos
from stillframe.errors import SourceError
from stillframe.pipeline.media import camera
from stillframe.pipeline.media.address import SCHEMES, parse_address
from stillframe.pipeline.media.open_source import frames, open_source
from stillframe.pipeline.media.redaction import display, redact
from tests.hostile import media
from tests.hostile.media import numbers


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ("0", "camera"),
        ("/dev/video2", "camera"),
        ("RTSP://host/x", "network"),
        ("https://host/x.m3u8", "network"),
        ("udp://0.0.0.0:5000", "network"),
        ("-", "pipe"),
        ("sample:screen", "sample"),
    ],
)
def test_a_spec_is_parsed_to_its_kind(spec: str, kind: str) -> None:
    assert parse_address(spec).kind == kind


def test_no_network_source_may_open_files() -> None:
    for name, scheme in SCHEMES.items():
        assert not {"file", "pipe", "concat", "subfile", "data"} & set(scheme.protocols.split(","))
        assert parse_address(f"{name}://h/x").scheme is scheme


def test_a_sample_is_a_file_under_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = media.clip(tmp_path / "a.mp4", 3)
    asked: list[str] = []

    def resolve(name: str) -> Path:
        asked.append(name)
        return path

    monkeypatch.setattr(sample_videos, "resolve", resolve, raising=False)
    with open_source("sample:screen") as source:
        assert (source.info.kind, source.info.spec) == ("sample", "sample:screen")
        assert numbers(source) == [0, 1, 2]
    assert asked == ["screen"]


def test_a_file_url_is_a_file(tmp_path: Path) -> None:
    path = media.clip(tmp_path / "a b.mp4", 2)
    assert numbers(frames(f"file://{str(path).replace(' ', '%20')}")) == [0, 1]


# --- redaction -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        ("rtsp://admin:secret@cam:554/live/1", "rtsp://cam:554/live/1"),
        ("rtsp://admin:p@ss/w:rd@cam/live", "rtsp://cam/live"),
        ("http://cam/video?user=admin&pwd=secret#top", "http://cam/video"),
        ("http://u:pa?ss@cam/x", "http://…"),
        ("http://cam/x?next=a@b", "http://…"),
        ("HTTP://cam/x", "http://cam/x"),
        ("admin:secret@cam/live", "cam/live"),
        ("u:p://x@y", "<address not shown>"),
        ("/home/me/clip@2x.mp4", "/home/me/clip@2x.mp4"),
        ("bad\x1b[31mname.mp4", "bad?[31mname.mp4"),
        ("0", "0"),
        ("-", "-"),
    ],
)
def test_an_address_is_shown_without_its_secrets(spec: str, shown: str) -> None:
    assert display(spec) == shown


SECRET = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=6, max_size=20
).map(lambda text: f"Q{text}Z")


@given(
    user=SECRET.filter(lambda text: ":" not in text),
    password=SECRET,
    token=SECRET,
    scheme=st.sampled_from([*SCHEMES, ""]),
)
def test_no_secret_is_ever_shown(user: str, password: str, token: str, scheme: str) -> None:
    mark = f"{scheme}://" if scheme else ""
    for spec in (
        f"{mark}{user}:{password}@camera.lan/live",
        f"{mark}{user}:{password}@camera.lan/live?token={token}",
    ):
        text = redact(f"Error opening '{spec}': {password} refused for {user}", spec)
        for secret in (user, password, token):
            assert secret not in display(spec)
            assert secret not in text
            assert secret not in repr(parse_address(spec)) if scheme else True


def test_errors_about_the_network_hide_the_credentials() -> None:
    with pytest.raises(SourceError) as caught:
        open_source("rtsp://admin:hunter22@127.0.0.1:9/live?key=abcdef", timeout_s=3)
    message = f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
    assert "rtsp://127.0.0.1:9/live: cannot be opened: connection refused" in message
    assert "hunter22" not in str(caught.value)
    assert "abcdef" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_camera_keeps_its_name_across_unplugging(tmp_path: Path) -> None:
    (tmp_path / "video0").touch()
    by_id = tmp_path / "by-id"
    by_id.mkdir()
    (by_id / "usb-Maker_Model").symlink_to(tmp_path / "video0")
    path = camera.device_path("0", "0", tmp_path)
    assert path == str(tmp_path / "video0")
    assert camera.stable_name(path, by_id) == str(by_id / "usb-Maker_Model")
    assert camera.stable_name(path, tmp_path / "none") == path
    with pytest.raises(SourceError, match=r"3: no camera at .*/video3; cameras here: .*/video0"):
        camera.device_path("3", "3", tmp_path)
