"""State that is fed back: an opacity that is the mean over the frames so far, in each backend."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from stillframe.errors import ModelError
from stillframe.models import zoo
from stillframe.models.model import Model
from stillframe.models.results import Mask
from stillframe.pipeline import cli
from stillframe.pipeline.inference.backends import Backend, OnnxRuntimeBackend, ReuseBackend
from stillframe.pipeline.inference.runner import Runner
from stillframe.pipeline.inference.settings import Settings
from stillframe.pipeline.inference.split_backend import SplitBackend, UncuttableError
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.quality.auto.runner import SteeredRunner
from tests.hostile import media

SIZE = (32, 48)
Image = NDArray[np.uint8]


def matting(
    path: Path,
    side: tuple[str | int, ...] = (1, 1, "h", "w"),
    names: tuple[str, str] = ("r1i", "r1o"),
) -> Path:
    """pha = r1o = 0.5 * r1i + 0.5 * the mean of the picture's channels; RVM's names and order."""
    before, after = names
    weights = np.full((1, 3, 1, 1), 1 / 3, np.float32)
    nodes = [
        helper.make_node("Conv", ["src", "weights"], ["grey"]),
        helper.make_node("Mul", ["grey", "half"], ["new"]),
        helper.make_node("Mul", [before, "half"], ["old"]),
        helper.make_node("Add", ["new", "old"], [after]),
        helper.make_node("Clip", [after, "nought", "one"], ["pha"]),
    ]
    numbers = {"half": 0.5, "nought": 0.0, "one": 1.0}
    constants = [numpy_helper.from_array(np.array(v, np.float32), k) for k, v in numbers.items()]
    constants.append(numpy_helper.from_array(weights, "weights"))
    float_ = TensorProto.FLOAT
    inputs = [
        helper.make_tensor_value_info(before, float_, list(side)),
        helper.make_tensor_value_info("src", float_, [1, 3, *SIZE]),
        helper.make_tensor_value_info("downsample_ratio", float_, [1]),
    ]
    outputs = [
        helper.make_tensor_value_info(after, float_, [None] * 4),
        helper.make_tensor_value_info("pha", float_, [None] * 4),
    ]
    graph = helper.make_graph(nodes, "matting", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return zoo.load(matting(tmp_path / "rvm.onnx"))


def frames() -> list[Frame]:
    draw = np.random.default_rng(7)
    images = [np.full((*SIZE, 3), 60, np.uint8)]
    for _ in range(5):
        image = images[-1].copy()
        top, left = draw.integers(0, 20, 2)
        image[top : top + 9, left : left + 9] = draw.integers(0, 256, 3)
        images.append(image)
    return [Frame(image, n, n / 10, n, Fraction(1, 10)) for n, image in enumerate(images)]


def expected() -> list[NDArray[np.float64]]:
    """The same in NumPy."""
    state, all_states = np.zeros(SIZE), []
    for frame in frames():
        state = 0.5 * state + 0.5 * frame.image.mean(2) / 255
        all_states.append(state)
    return all_states


def test_inputs_and_outputs_come_in_the_order_that_backends_know(model: Model) -> None:
    graph = onnx.load(model.path).graph
    assert [each.name for each in graph.input] == ["src", "r1i"]
    assert [each.name for each in graph.output] == ["pha", "r1o"]
    dims = [each.dim_value for each in graph.input[1].type.tensor_type.shape.dim]
    assert dims == [1, 1, *SIZE]  # it was open
    feed = model.feed(frames()[0].image)
    assert list(feed) == ["src", "r1i"]
    assert not feed["r1i"].any()
    assert model.form.name == "matting"


@pytest.mark.parametrize(
    "make", [lambda p: OnnxRuntimeBackend(p, 1), lambda p: ReuseBackend(p, 1)], ids=["ort", "reuse"]
)
def test_every_backend_feeds_it_back(make: Callable[[Path], Backend], model: Model) -> None:
    backend = make(model.path)
    for frame, want in zip(frames(), expected(), strict=True):
        outputs = backend.run(model.feed(frame.image), None)
        np.testing.assert_allclose(outputs[0][0, 0], want, atol=1e-5)
    backend.close()


@pytest.mark.parametrize("reuse", ["off", "layer", "exact", "auto"])
def test_a_run_gives_what_the_whole_network_gives(reuse: Any, model: Model) -> None:
    tolerance = 1e-6 if reuse == "layer" else 0.1
    settings = Settings(reuse=reuse, tolerance=tolerance, threads=1)
    runner: Any = SteeredRunner if reuse == "auto" else Runner
    with runner(model, settings) as run:
        for frame, want in zip(frames(), expected(), strict=True):
            result = run.step(frame).result
            assert isinstance(result, Mask)
            np.testing.assert_allclose(result.values, want, atol=1e-4)
        if reuse == "auto":
            assert run.audit is None  # a single frame cannot be computed again


def test_a_card_names_what_is_fed_back(tmp_path: Path) -> None:
    file = matting(tmp_path / "own.onnx", names=("before", "after"))
    with pytest.raises(ModelError, match="got 'before', 'src'; give the others constants in a"):
        zoo.load(file)
    (tmp_path / "model.yaml").write_text("state: {after: before}\ntask: matting\n")
    model = zoo.load(file)
    assert model.form.side.state == {"after": "before"}
    with Runner(model, Settings(reuse="off")) as run:
        results: list[Any] = [run.step(frame).result for frame in frames()]
    np.testing.assert_allclose(results[-1].values, expected()[-1], atol=1e-5)


def test_a_state_that_never_settles_is_refused(tmp_path: Path) -> None:
    file = matting(tmp_path / "grows.onnx")
    model = onnx.load(file)
    graph = model.graph
    graph.initializer.append(
        numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 0, 1, 0], np.int64), "pads")
    )
    graph.node.append(helper.make_node("Pad", ["r1o", "pads"], ["r2o"]))
    graph.output.append(helper.make_tensor_value_info("r2o", TensorProto.FLOAT, [None] * 4))
    onnx.save(model, file)
    with pytest.raises(ModelError, match="state: "):
        zoo.load(file, state={"r2o": "r1i"})


def test_a_split_network_has_no_state(model: Model) -> None:
    with pytest.raises(UncuttableError, match="a state that is fed back"):
        SplitBackend(model.path)


def test_the_command_line_runs_it_and_refuses_audits(
    model: Model, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    clip = media.clip(tmp_path / "clip.mp4", 4)
    words = ["run", str(clip), "--model", str(model.origin), "--jsonl", "-", "--quiet"]
    assert cli.status(words) == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [line["mask"]["size"] for line in lines] == [lines[0]["mask"]["size"]] * 4
    assert cli.status([*words, "--quality", "0.9"]) == 2
    assert "--quality: expected a model without a state" in capfd.readouterr().err
