"""The ways in which a network can run: granularities, and its two halves."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from stillframe.pipeline.inference.backends import OnnxRuntimeBackend
from stillframe.pipeline.inference.settings import Settings
from stillframe.pipeline.inference.split_backend import (
    SplitBackend,
    UncuttableError,
    best_cut,
    cuts,
)
from stillframe.pipeline.placement.backend_choice import choices
from tests import networks


def test_exact_keeps_our_engine_and_layer_may_take_another() -> None:
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
    found = list(cuts(model))
    assert [cut.share for cut in found] == sorted(cut.share for cut in found)
    assert all("image" not in cut.names for cut in found)
    assert best_cut(model).names in {("c2",), ("c3", "c2"), ("c2", "c3")}
    assert 0.3 <= best_cut(model).share <= 0.7
    across = next(cut for cut in found if "c3" in cut.names)
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
    found = list(cuts(onnx.shape_inference.infer_shapes(model)))
    assert [cut.names for cut in found] == [("c",)]


def test_both_halves_give_what_the_whole_gives(deep: Path) -> None:
    engine, whole = SplitBackend(deep), OnnxRuntimeBackend(deep, 1)
    draw = np.random.default_rng(4)
    picture = draw.random((1, 3, 24, 40), np.float32)
    for _ in range(4):
        feed = {"image": picture.copy()}
        boundary = [each.copy() for each in engine.head(feed, None)]
        (found,) = engine.tail(boundary)
        (expected,) = whole.run(feed, None)
        assert np.allclose(found, expected, atol=1e-4)
        picture[..., 5:9, 7:12] = draw.random()
    engine.close()


def test_a_network_that_no_cut_divides_says_so(tmp_path: Path) -> None:
    with pytest.raises(UncuttableError, match="no place divides its work well"):
        best_cut(onnx.load(networks.brightness(tmp_path / "brightness.onnx")))
