"""A short attack by a real RTSP camera; `python -m tests.attack rtsp` is the long one."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.media.open_source import open_source
from tests import networks
from tests.attack.rtsp import Camera, Observed, missing
from tests.attack.rtsp_proxy import RtspProxy
from tests.attack.rtsp_report import Sight
from tests.hang_guard import HANGS_S, ends
from tests.hostile.servers import free_port
from tests.pipeline.media.test_live import wait_for

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "it is there")


@pytest.fixture
def camera() -> Iterator[Camera]:
    with Camera(free_port(), "160x96", 15) as camera:
        yield camera


def test_each_fault_of_a_camera_is_seen_in_every_channel(camera: Camera, tmp_path: Path) -> None:
    model = networks.brightness(tmp_path / "brightness.onnx")
    run = Observed(camera.url, str(model), tmp_path, every_output=True)
    channels: dict[str, Callable[[], list[Sight]]] = {
        "jsonl": run.events,
        "stderr": run.line_states,
        "metrics": lambda: run.states,
    }

    def has_new(look_up: Callable[[], list[Sight]], first: int, state: str) -> bool:
        return any(sight.value == state for sight in look_up()[first:])

    def wait_for_state(state: str) -> None:
        for name, look_up in channels.items():
            wait_for(partial(has_new, look_up, seen[name], state), HANGS_S)
            seen[name] = len(look_up())

    seen = dict.fromkeys(channels, 0)
    try:
        wait_for_state("running")
        for act, state in (
            (lambda: camera.tell("stall"), "stalled"),
            (lambda: camera.tell("play"), "running"),
            (lambda: camera.tell("freeze"), "frozen"),
            (lambda: camera.tell("play"), "running"),
            (camera.kill, "lost"),
            (camera.start, "running"),
        ):
            act()
            wait_for_state(state)
    finally:
        code = run.end()
    assert code == 130
    assert json.loads((tmp_path / "summary.json").read_text())["reconnects"] == 1


@pytest.mark.parametrize("seconds", [1000.0, -1000.0])
def test_a_leap_of_the_time_stamps_is_taken_out(camera: Camera, seconds: float) -> None:
    port = int(camera.url.split(":")[2].split("/")[0])
    with (
        RtspProxy(port) as proxy,
        open_source(f"rtsp://127.0.0.1:{proxy.port}/camera") as source,
    ):
        before = ends(lambda: [next(source) for _ in range(5)])[-1]
        proxy.jump(seconds)

        def read_on() -> float:
            while source.rebased == 0:
                next(source)
            return next(source).time_s

        after_s = ends(read_on)
        assert source.rebased == 1
    assert before.time_s < after_s < before.time_s + abs(seconds) / 2


def test_a_camera_may_change_its_size(camera: Camera) -> None:
    with open_source(camera.url) as source:
        assert next(source).image.shape == (96, 160, 3)
        camera.tell("size 240x128")

        def read_on() -> Frame:
            while (frame := next(source)).image.shape == (96, 160, 3):
                pass
            return frame

        resized = ends(read_on)
    assert resized.image.shape == (128, 240, 3)
    assert resized.discontinuity
