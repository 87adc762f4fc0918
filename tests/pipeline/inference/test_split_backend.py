"""The backends a model may run on, and a model in two segments."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from stillframe import cores
from stillframe.errors import UsageError
from stillframe.models import zoo
from stillframe.pipeline.inference import split_backend
from stillframe.pipeline.inference.backend_slot import BackendSlot
from stillframe.pipeline.inference.backends import OnnxRuntimeBackend
from stillframe.pipeline.inference.settings import Settings
from stillframe.pipeline.inference.split_backend import (
    Cut,
    SplitBackend,
    UncuttableError,
    best_cut,
    cuts,
)
from stillframe.pipeline.inference.stages import InferenceStages
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.placement.backend_choice import choices
from stillframe.reuse.gate.change_map import ChangeMap
from stillframe.reuse.gate.gate_settings import GateSettings
from stillframe.reuse.session import ReuseSession
from tests import networks
from tests.graph_cases import model as onnx_bytes
from tests.reuse.test_session import weights


def test_exact_keeps_our_engine_and_layer_may_take_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cores, "most_threads", lambda: 4)
    exact = {g.kind for g in choices(Settings(reuse="exact"), 4)}
    assert exact == {"reuse", "segments"}
    assert {"reuse", "segments", "onnxruntime"} <= {
        g.kind for g in choices(Settings(reuse="layer"), 4)
    }
    assert "reuse" not in {g.kind for g in choices(Settings(reuse="frame"), 4)}
    assert [g.threads for g in choices(Settings(reuse="frame"), 4)][:3] == [1, 2, 4]
    assert {g.threads for g in choices(Settings(reuse="frame", threads=3), 4)} == {3}
    assert "segments" not in {g.kind for g in choices(Settings(reuse="layer"), 1)}


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return networks.deep(tmp_path_factory.mktemp("models") / "deep.onnx")


def test_a_network_is_cut_where_its_halves_weigh_the_same(deep: Path) -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load(deep))
    places = list(cuts(model))
    assert [cut.share for cut in places] == sorted(cut.share for cut in places)
    assert all("image" not in cut.names for cut in places)
    assert best_cut(model).names in {("c2",), ("c3", "c2"), ("c2", "c3")}
    assert 0.3 <= best_cut(model).share <= 0.7
    across = next(cut for cut in places if "c3" in cut.names)
    assert set(across.names) == {"c2", "c3"}  # the branch crosses too


def test_the_picture_itself_never_crosses() -> None:
    """What the head reads would have to be handed on beside it."""
    value, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    shape = [1, 3, 8, 8]
    names = [("image",), ("a",), ("b", "image"), ("c",)]
    nodes = [
        node("Add" if len(reads) > 1 else "Relu", list(reads), [name])
        for reads, name in zip(names, ("a", "b", "c", "out"), strict=True)
    ]
    ends = [[value(name, onnx.TensorProto.FLOAT, shape)] for name in ("image", "out")]
    graph = onnx.helper.make_graph(nodes, "late", *ends)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    places = list(cuts(onnx.shape_inference.infer_shapes(model)))
    assert [cut.names for cut in places] == [("c",)]


def test_both_halves_give_what_the_whole_gives(deep: Path) -> None:
    split, whole = SplitBackend(deep), OnnxRuntimeBackend(deep, 1)
    draw = np.random.default_rng(4)
    picture = draw.random((1, 3, 24, 40), np.float32)
    for _ in range(4):
        feed = {"image": picture.copy()}
        boundary = [each.copy() for each in split.head(feed, None)]
        (output,) = split.tail(boundary, None)
        (expected,) = whole.run(feed, None)
        assert np.allclose(output, expected, atol=1e-4)
        picture[..., 5:9, 7:12] = draw.random()
    split.close()


def test_a_network_that_no_cut_divides_says_so(tmp_path: Path) -> None:
    with pytest.raises(UncuttableError, match="no place divides its work well"):
        best_cut(onnx.load(networks.brightness(tmp_path / "brightness.onnx")))


# --- the rolling refresh reaches both halves -----------------------------------------------------

HUGE = 1e3  # a tolerance that cuts everything off
HEIGHT, WIDTH = 61, 40


def random_network(seed: int, height: int = HEIGHT, width: int = WIDTH) -> bytes:
    """Convolutions with strides, pooling, upsampling, skip connections and a global gate."""
    rng = np.random.default_rng(seed)
    steps: list[Any] = []
    shapes: dict[str, tuple[int, int, int]] = {"x": (3, height, width)}

    def add(op: str, inputs: list[Any], shape: tuple[int, int, int], **attrs: Any) -> str:
        name = f"t{len(steps)}"
        steps.append((op, inputs, name, attrs))
        shapes[name] = shape
        return name

    def conv(source: str, size: int = 3, stride: int = 1) -> str:
        channels, rows, columns = shapes[source]
        name = add(
            "Conv",
            [source, weights(rng, 8, channels, size, size), weights(rng, 8)],
            (8, -(-rows // stride), -(-columns // stride)),
            pads=[size // 2] * 4,
            strides=[stride] * 2,
        )
        return add("Relu", [name], shapes[name])

    last = conv("x")
    for _ in range(8):
        kind = rng.choice(["conv", "wide", "stride", "pool", "up", "skip", "gate"])
        _, rows, columns = shapes[last]
        twins = [name for name, shape in shapes.items() if shape == shapes[last] and name != last]
        if kind == "stride" and rows > 12:
            last = conv(last, stride=2)
        elif kind == "pool" and rows > 12:
            last = add(
                "MaxPool", [last], (8, -(-rows // 2), -(-columns // 2)),
                kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4,
            )  # fmt: skip
        elif kind == "up" and rows < 40:
            scales = np.array([1, 1, 2, 2], np.float32)
            last = add("Resize", [last, "", scales], (8, 2 * rows, 2 * columns), mode="nearest")
        elif kind == "skip" and twins:
            last = add("Add", [last, str(rng.choice(twins))], shapes[last])
        elif kind == "gate":
            pooled = add("GlobalAveragePool", [last], (8, 1, 1))
            last = add("Mul", [last, add("Sigmoid", [pooled], (8, 1, 1))], shapes[last])
        else:
            last = conv(last, 5 if kind == "wide" else 3)
    last = conv(conv(last))
    steps.append(("Conv", [last, weights(rng, 5, 8, 3, 3), weights(rng, 5)], "y", {}))
    return onnx_bytes(steps, {"x": (1, 3, height, width)}, ["y"])


def cut_at(monkeypatch: pytest.MonkeyPatch, path: Path, cut: Cut, tolerance: float) -> SplitBackend:
    monkeypatch.setattr(split_backend, "best_cut", lambda model: cut)
    return SplitBackend(path, 1, tolerance)


def step(
    backend: Any, picture: NDArray[np.float32], rows: tuple[int, int], renewed: bool = False
) -> list[NDArray[Any]]:
    """Run with these rows marked as changed, perhaps only because they are renewed."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[slice(*rows)] = 1
    change = ChangeMap(mask, float(mask.mean()), "partial", "test", rows if renewed else (0, 0))
    return [output.copy() for output in backend.run({"x": picture}, change)]


@pytest.mark.parametrize("seed", range(4))
def test_a_sweep_renews_both_halves_wherever_the_cut_lies(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a sweep the result is bit for bit what the whole model gives for the picture."""
    path = tmp_path / "net.onnx"
    path.write_bytes(random_network(seed))
    rng = np.random.default_rng(seed)
    old, new = (rng.standard_normal((1, 3, HEIGHT, WIDTH)).astype(np.float32) for _ in range(2))
    new[..., :12, :] = old[..., :12, :]
    with ReuseSession(path, tolerance=HUGE, threads=1) as whole:
        (alone,) = whole.run(None, {"x": new})
    places = list(cuts(onnx.shape_inference.infer_shapes(onnx.load(path))))
    stale = 0
    for cut in places:
        backend = cut_at(monkeypatch, path, cut, HUGE)
        backend.run({"x": old}, None)
        (output,) = step(backend, new, (12, 40))
        step(backend, new, (40, HEIGHT))
        stale += not np.array_equal(output, alone)
        for sweep in range(2):
            height = (7, 16)[sweep]
            for top in range(0, HEIGHT, height):
                (output,) = step(backend, new, (top, min(top + height, HEIGHT)), renewed=True)
            np.testing.assert_array_equal(output, alone, err_msg=f"cut {cut}, sweep {sweep}")
        backend.close()
    assert stale > len(places) / 2  # the tolerance did cut off


def test_what_an_island_hands_to_the_tail_is_renewed_as_the_sweep_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(9)
    steps: list[Any] = [
        ("Conv", ["x", weights(rng, 8, 3, 3, 3), weights(rng, 8)], "a", {"pads": [1] * 4}),
        ("Conv", ["a", weights(rng, 8, 8, 3, 3), weights(rng, 8)], "b", {"pads": [1] * 4}),
        ("Sin", ["b"], "c", {}),  # which the reuse engine leaves to ONNX Runtime
        ("Conv", ["c", weights(rng, 8, 8, 3, 3), weights(rng, 8)], "d", {"pads": [1] * 4}),
        ("Conv", ["d", weights(rng, 8, 8, 5, 5), weights(rng, 8)], "e", {"pads": [2] * 4}),
        ("Conv", ["e", weights(rng, 5, 8, 3, 3), weights(rng, 5)], "y", {}),
    ]
    path = tmp_path / "net.onnx"
    path.write_bytes(onnx_bytes(steps, {"x": (1, 3, HEIGHT, WIDTH)}, ["y"]))
    places = list(cuts(onnx.shape_inference.infer_shapes(onnx.load(path))))
    cut = next(each for each in places if each.names == ("c",))
    picture = rng.standard_normal((1, 3, HEIGHT, WIDTH)).astype(np.float32)
    backend = cut_at(monkeypatch, path, cut, HUGE)
    (alone,) = (output.copy() for output in backend.run({"x": picture}, None))
    dark = picture.copy()
    dark[:, :, 20:44] = 0
    backend.run({"x": dark}, None)
    (output,) = step(backend, picture, (20, 44))
    assert not np.array_equal(output, alone)
    for top in range(0, HEIGHT, 8):
        (output,) = step(backend, picture, (top, min(top + 8, HEIGHT)), renewed=True)
    np.testing.assert_array_equal(output, alone)
    backend.close()


def test_the_tail_alone_holds_what_the_tolerance_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A boundary that does not change any more says nothing about the layers after it."""
    path = tmp_path / "net.onnx"
    path.write_bytes(random_network(1))
    rng = np.random.default_rng(5)
    picture = rng.standard_normal((1, 3, HEIGHT, WIDTH)).astype(np.float32)
    cut = best_cut(onnx.shape_inference.infer_shapes(onnx.load(path)))
    backend = cut_at(monkeypatch, path, cut, HUGE)
    (alone,) = (output.copy() for output in backend.run({"x": picture}, None))
    boundary = [each.copy() for each in backend.head({"x": picture}, None)]
    backend.tail([each + 1 for each in boundary], None)
    none = ChangeMap.none(HEIGHT, WIDTH)
    for part in (0.3, 0.6, 1.0):  # little by little, so that no step is computed whole
        mixed = [each + 1 for each in boundary]
        for whole, each in zip(mixed, boundary, strict=True):
            rows = int(part * each.shape[2])
            whole[:, :, :rows] = each[:, :, :rows]
        (output,) = backend.tail(mixed, none)
    assert not np.array_equal(output, alone)
    for top in range(0, HEIGHT, 8):
        (output,) = step(backend, picture, (top, min(top + 8, HEIGHT)), renewed=True)
    np.testing.assert_array_equal(output, alone)
    backend.close()


@pytest.mark.parametrize("in_two", [False, True])
def test_the_reported_age_is_true_in_two_segments(in_two: bool, tmp_path: Path) -> None:
    """A result rests on no frame older than it says: once the last change of the picture is older
    than the oldest frame behind a result, the result is that of the picture alone."""
    path = tmp_path / "net.onnx"
    path.write_bytes(random_network(1, 96, 128))
    model = zoo.load(str(path), task="tensors")
    settings = Settings(
        "layer", threads=1, tolerance=9.0, max_age_s=2.0, gating=GateSettings(flush=1.0)
    )
    slot = BackendSlot(lambda path: SplitBackend(path, 1, 9.0), incremental=True)
    stages = InferenceStages(model, settings, in_two=in_two, slot=slot)
    alone = InferenceStages(
        model,
        replace(settings, reuse="off", gating=None),
        slot=BackendSlot(lambda path: SplitBackend(path, 1, 9.0), incremental=True),
    )

    def result(stages: InferenceStages, index: int, image: NDArray[np.uint8]) -> Any:
        frame = Frame(image, index, index / 10, index, Fraction(1, 10))
        return stages.postprocess(stages.infer_rest(stages.infer(stages.preprocess(frame)))).result

    noise = np.random.default_rng(3).normal(0, 12, (96, 128, 3))
    image = np.clip(90 + noise, 0, 255).astype(np.uint8)
    changed_s, proofs, stale, ages = 0.0, 0, 0, []
    for index in range(130):
        if index % 40 == 5:  # another part of the picture, too small for a step to be dense
            at = 20 * (index // 40)
            image = image.copy()
            image[at : at + 16] = np.clip(image[at : at + 16] + 60.0, 0, 255).astype(np.uint8)
            changed_s = index / 10
            expected = result(alone, index, image).arrays["y"]
        ours = result(stages, index, image)
        if index < 5:
            continue
        age_s = ours.evidence.age_s
        ages.append(age_s)
        same = np.array_equal(ours.arrays["y"], expected)
        if index / 10 - age_s >= changed_s:
            proofs += 1
            assert same, (
                f"frame {index} says {age_s} s, the picture is {index / 10 - changed_s} s old"
            )
        stale += not same
    assert proofs > 40
    assert stale > 10
    assert 1.0 < max(ages) <= 2.0 + 1e-9
    stages.slot.close()
    alone.slot.close()


def test_a_backend_closed_between_its_halves_finishes_the_frames_there(deep: Path) -> None:
    """As when another plan takes its place while frames are on their way to the second half."""
    split = SplitBackend(deep)
    feed = {"image": np.zeros(split._head.get_inputs()[0].shape, np.float32)}
    boundary = [np.array(each) for each in split.head(feed, None)]
    split.head(feed, None)
    split.close()
    assert all(np.isfinite(each).all() for each in split.tail(boundary, None))
    assert all(np.isfinite(each).all() for each in split.tail(boundary, None))
    with pytest.raises(UsageError, match="closed"):
        split.tail(boundary, None)


def test_frames_that_will_not_come_do_not_keep_a_closed_tail_open(deep: Path) -> None:
    split = SplitBackend(deep)
    feed = {"image": np.zeros(split._head.get_inputs()[0].shape, np.float32)}
    boundary = [np.array(each) for each in split.head(feed, None)]
    split.close()
    split.abandon()
    with pytest.raises(UsageError, match="closed"):
        split.tail(boundary, None)
