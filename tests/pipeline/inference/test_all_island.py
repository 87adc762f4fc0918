"""A network that the reuse engine leaves to ONNX Runtime: nothing is gated or prepared for it."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from stillframe.models import zoo
from stillframe.models.model import Model
from stillframe.pipeline import cli
from stillframe.pipeline.inference.backends import ReuseBackend
from stillframe.pipeline.inference.runner import Runner
from stillframe.pipeline.inference.settings import Settings
from stillframe.pipeline.inference.stages import InferenceStages
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.quality.auto import controller, preparation, warm_up
from stillframe.pipeline.quality.auto.runner import SteeredRunner
from stillframe.reuse.gate.change_gate import ChangeGate
from tests.graph_cases import model, number, w

SIDE = 64
ZERO = np.array(128, np.uint8)


def quantised() -> bytes:
    """A convolution on integers, between quantising and dequantising."""
    scale, kernel = number(0.02), (w(4, 3, 3, 3) * 40 + 128).astype(np.uint8)
    steps = [
        ("QuantizeLinear", ["x", scale, ZERO], "q", {}),
        ("DequantizeLinear", ["q", scale, ZERO], "d", {}),
        ("DequantizeLinear", [kernel, scale, ZERO], "k", {}),
        ("Conv", ["d", "k"], "c", {"pads": [1, 1, 1, 1]}),
        ("QuantizeLinear", ["c", scale, ZERO], "r", {}),
        ("DequantizeLinear", ["r", scale, ZERO], "y", {}),
    ]
    return model(steps, {"x": (1, 3, SIDE, SIDE)}, ["y"])


@pytest.fixture(scope="module")
def island(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("island") / "quantised.onnx"
    path.write_bytes(quantised())
    return zoo.load(str(path), task="tensors")


@pytest.fixture
def gated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each picture that the gate compares."""
    calls: list[int] = []
    step = ChangeGate.step

    def counted(self: ChangeGate, picture: NDArray[np.uint8], **rest: Any) -> Any:
        calls.append(len(calls))
        return step(self, picture, **rest)

    monkeypatch.setattr(ChangeGate, "step", counted)
    return calls


def frames(count: int) -> Iterator[Frame]:
    rng = np.random.default_rng(0)
    for index in range(count):
        image = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        yield Frame(image, index, index / 10, index, Fraction(1, 10))


def whole(network: Model, frame: Frame) -> NDArray[Any]:
    session = onnxruntime.InferenceSession(network.path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, network.feed(network.fit(frame.image)[0]))[0])


def test_it_is_computed_whole_and_what_changed_is_not_sought(
    island: Model, gated: list[int]
) -> None:
    with Runner(island, Settings("layer", threads=1, max_age_s=1e9)) as runner:
        for frame in frames(6):
            step = runner.step(frame)
            assert step.result.evidence.provenance == "computed"
            assert step.result.evidence.age_s == 0
            (output,) = step.result.arrays.values()
            assert np.abs(output - whole(island, frame)).max() < 0.021  # one step of the integers
    assert gated == [0]  # before anybody knew


def test_outputs_of_stages_live_on(island: Model) -> None:
    stages = InferenceStages(island, Settings("layer", threads=1))
    done = [stages.infer(stages.preprocess(frame)) for frame in frames(4)]
    outputs = [each.outputs[0] for each in done if each.outputs is not None]
    assert len({output.tobytes() for output in outputs}) == 4
    stages.slot.close()


def test_widened_it_is_gated_and_reused(island: Model, gated: list[int]) -> None:
    settings = Settings("layer", threads=1, max_age_s=1e9, widen=True)
    with Runner(island, settings) as runner:
        still = next(frames(1)).image
        for index in range(4):
            image = still.copy()
            image[8:16, 8 * index : 8 * index + 8] = 255
            step = runner.step(Frame(image, index, index / 10, index, Fraction(1, 10)))
        assert step.result.evidence.provenance == "partial"
    assert len(gated) == 4


def test_auto_prepares_nothing_for_it_and_says_why(
    island: Model, gated: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(warm_up, "kernel_folder", lambda: tmp_path)
    monkeypatch.setattr(preparation, "start_elsewhere", lambda *_, **__: None)
    warmed: list[Any] = []
    monkeypatch.setattr(preparation, "warm_up", warmed.append)
    sources: list[Path] = []

    def make(path: Path) -> ReuseBackend:
        sources.append(path)
        return ReuseBackend(path, 1, 0.1)

    for attempt in range(2):
        prepared = preparation.Preparation(island.path, make, 1)
        prepared.join()
        assert prepared.take() is None
        assert prepared.why == preparation.ALL_ISLAND
        assert len(sources) == 1, f"attempt {attempt}"  # the second run need not find it out again
    assert not warmed
    monkeypatch.setattr(controller, "MOVES", 1.0)  # the frames move everywhere
    with SteeredRunner(island, Settings("auto", threads=1)) as runner:
        assert runner.controller is not None
        for index, frame in enumerate(frames(6)):
            assert runner.step(frame).result.evidence.provenance == "computed"
            if not index:  # how much of the picture moves is known from the second frame on
                continue
            assert runner.controller._preparation is not None
            runner.controller._preparation.join()
        assert preparation.ALL_ISLAND in str(runner.controller)
    assert not gated


def test_a_file_that_was_written_anew_is_examined_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_up, "kernel_folder", lambda: tmp_path)
    path = tmp_path / "network.onnx"
    path.write_bytes(quantised())
    assert not warm_up.is_all_island(path, 1)
    warm_up.main(path, 1, widen=False)
    assert warm_up.is_all_island(path, 1)
    assert not warm_up.is_all_island(path, 1, widen=True)
    path.write_bytes(model([("Relu", ["x"], "y", {})], {"x": (1, 3, SIDE, SIDE)}, ["y"]))
    assert not warm_up.is_all_island(path, 1)
    path.unlink()
    assert not warm_up.is_all_island(path, 1)


def test_explain_says_so_and_what_widening_changes(
    island: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.status(["explain", str(island.path), "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("does not pay: Reuse cannot pay here")
    assert "--widen" in out
    assert cli.status(["explain", str(island.path), "--threads", "1", "--widen"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("open: ")
    assert "note: quantised model: widened to float32" in out
