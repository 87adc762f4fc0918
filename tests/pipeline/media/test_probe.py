"""stillframe probe: what a source states and what its frames show, for people and for programs."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from stillframe.errors import SourceError
from stillframe.pipeline.cli.probe import probe
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.media.probe import _probe_open_source, probe_source
from stillframe.pipeline.media.source import Source, SourceInfo, SourceState
from tests.hostile import media


@pytest.fixture
def command() -> Any:
    app = typer.Typer()
    app.command()(probe)

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, list(arguments), catch_exceptions=False)

    return run


def test_a_plain_clip(tmp_path: Path) -> None:
    path = media.clip(tmp_path / "a.mp4", 40, audio_s=1.6)
    result = probe_source(path, 25)
    assert result.info.spec == str(path)
    assert (result.frames, result.corrupt, result.skipped, result.discontinuities) == (25, 0, 0, 0)
    assert (result.measured_rate, result.variable_rate) == (25.0, False)
    assert result.interval_ms == (40.0, 40.0, 40.0)
    assert result.sizes == ((96, 64),)
    assert result.info.audio_codec == "aac"
    assert result.decode_ms is not None
    assert result.fault is None


def test_uneven_times_are_measured_without_an_index(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    times = [0, 40, 47, 300, 301, 900]
    media.encode(path, media.pictures(6), times=times, time_base=Fraction(1, 1000))
    result = probe_source(path)
    assert result.info.variable_rate is not False
    assert result.variable_rate is True
    assert result.interval_ms == (1.0, 40.0, 599.0)


def test_rounding_to_milliseconds_is_not_a_variable_rate(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    rate = Fraction(30_000, 1001)
    media.encode(path, media.pictures(30), rate=rate, time_base=1 / rate)
    result = probe_source(path)
    assert result.variable_rate is False
    assert result.measured_rate == pytest.approx(float(rate), rel=2e-3)


def test_damage_turns_and_sizes_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    media.clip(path, 60, codec_options={"preset": "ultrafast", "g": "10"})
    data = bytearray(path.read_bytes())
    for place in np.linspace(len(data) // 3, len(data) - 100, 12).astype(int):
        data[place] ^= 0xFF
    path.write_bytes(data)
    result = probe_source(path, 100)
    assert result.corrupt + result.skipped > 0
    assert 0 < result.frames <= 60
    media.encode(tmp_path / "turned.mp4", media.pictures(3), rotation=90)
    turned = probe_source(tmp_path / "turned.mp4")
    assert (turned.info.rotation, turned.info.width, turned.info.height) == (90, 64, 96)
    assert turned.sizes == ((64, 96),)


def test_frames_that_a_live_source_dropped_leave_no_uneven_gaps() -> None:
    class Dropping(Source):
        info = SourceInfo("cam", "camera", 96, 64, live=True)
        state = SourceState.RUNNING
        dropped = 3
        _left = iter([0, 1, 4, 6])

        def __next__(self) -> Frame:
            return media.frame_of(next(self._left))

        def close(self) -> None: ...

    result = _probe_open_source(Dropping(), 10)
    assert result.interval_ms == (40.0, 40.0, 40.0)
    assert (result.variable_rate, result.measured_rate, result.dropped) == (False, 25.0, 3)
    assert result.decode_ms is None


def test_one_picture_is_enough(tmp_path: Path) -> None:
    frame = av.VideoFrame.from_ndarray(media.picture(3), format="rgb24")
    frame.save(str(tmp_path / "a.png"))
    result = probe_source(tmp_path / "a.png", rate=2)
    assert (result.frames, result.measured_rate, result.interval_ms) == (1, None, None)
    assert result.info.rate == 2


def test_json_is_for_programs(command: Any, tmp_path: Path) -> None:
    path = media.clip(tmp_path / "a.mp4", 10, rate=Fraction(30_000, 1001))
    done = command(str(path), "--json", "--frames", "5")
    assert done.exit_code == 0
    result = json.loads(done.stdout)
    assert result["frames"] == 5
    assert result["info"]["codec"] == "h264"
    assert (result["info"]["width"], result["info"]["height"]) == (96, 64)
    assert result["info"]["frame_count"] == 10
    assert result["sizes"] == [[96, 64]]
    assert set(result) == {
        "info",
        "frames",
        "corrupt",
        "discontinuities",
        "skipped",
        "dropped",
        "measured_rate",
        "interval_ms",
        "variable_rate",
        "sizes",
        "decode_ms",
        "fault",
    }


def test_a_table_is_for_people(command: Any, tmp_path: Path) -> None:
    path = media.clip(tmp_path / "a[b].mp4", 10, audio_s=0.4)
    done = command(str(path))
    rows = dict(line.split("  ", 1) for line in done.stdout.splitlines())
    assert {name.strip(): text.strip() for name, text in rows.items()} | {"decode": ""} == {
        "source": str(path),
        "kind": "file, every frame",
        "container": "mov,mp4,m4a,3gp,3g2,mj2",
        "picture": "96x64",
        "codec": "h264, yuv420p",
        "rate": "25.000 stated, 25.000 measured, constant",
        "interval": "40 … 40 … 40 ms (least, median, most)",
        "frames": "10",
        "duration": "0.400 s",
        "sound": "aac",
        "examined": "10 frames",
        "corrupt": "0",
        "discontinuities": "0",
        "skipped packets": "0",
        "decode": "",
    }


def test_a_missing_source_is_one_clear_error(command: Any) -> None:
    with pytest.raises(SourceError, match="no such file"):
        command("none.mp4")
