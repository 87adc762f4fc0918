"""Cleaning: one picture input, fixed shapes, the same numbers; hostile files end in one line."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from stillframe.errors import ModelError
from stillframe.models.formats.cleaning import clean
from stillframe.models.formats.onnx_file import image_input, outline
from tests.hang_guard import ends
from tests.hostile.models import CASES, Hostile, external, network


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STILLFRAME_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def saved(model: onnx.ModelProto, folder: Path, name: str = "net.onnx") -> Path:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def run(path: Path, picture: NDArray[Any]) -> list[NDArray[Any]]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options)
    outputs: list[NDArray[Any]] = session.run(None, {session.get_inputs()[0].name: picture})
    return outputs


def old_export() -> onnx.ModelProto:
    """As exporters of 2019 wrote: weights are inputs, a batch of ten, 32x32, stale shapes."""
    model = network(dims=(10, 3, 32, 32), ir_version=3, opset=9)
    unread = numpy_helper.from_array(np.zeros(5, np.float32), "num_batches_tracked")
    model.graph.initializer.append(unread)
    for weight in model.graph.initializer:
        info = helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
        model.graph.input.append(info)
    stale = (10, 4, 32, 32)
    model.graph.value_info.append(helper.make_tensor_value_info("conv", TensorProto.FLOAT, stale))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, stale)
    model.graph.output[0].CopyFrom(y)
    return model


def dims(value: onnx.ValueInfoProto) -> list[int]:
    return [d.dim_value for d in value.type.tensor_type.shape.dim]


def test_an_old_export_gets_one_input_a_batch_of_one_and_the_asked_size(tmp_path: Path) -> None:
    model = onnx.load(clean(saved(old_export(), tmp_path), (64, 96)))
    assert [i.name for i in model.graph.input] == ["x0"]
    assert dims(model.graph.input[0]) == [1, 3, 64, 96]
    assert {v.name: dims(v) for v in model.graph.value_info} == {"conv": [1, 4, 64, 96]}
    assert dims(model.graph.output[0]) == [1, 4, 64, 96]
    assert [i.name for i in model.graph.initializer] == ["weight"]
    assert model.ir_version == 4
    onnx.checker.check_model(model, full_check=True)


def test_the_cleaned_file_computes_the_same(tmp_path: Path, rng: np.random.Generator) -> None:
    picture = rng.random((10, 3, 32, 32), dtype=np.float32)
    origin = saved(old_export(), tmp_path)
    cleaned = clean(origin, (32, 32))
    for one, whole in zip(picture, run(origin, picture)[0], strict=True):
        np.testing.assert_array_equal(run(cleaned, one[None])[0][0], whole)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_channels_last_are_kept_and_noted(tmp_path: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", "h", "w", 3))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    node = helper.make_node("Transpose", ["x"], ["y"], perm=[0, 3, 1, 2])
    model = helper.make_model(
        helper.make_graph([node], "g", [x], [y]), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 8
    path = saved(model, tmp_path)
    port = image_input(path)
    assert (port.layout, port.channels, port.size) == ("nhwc", 3, None)
    cleaned = onnx.load(clean(path, (5, 7)))
    assert dims(cleaned.graph.input[0]) == [1, 5, 7, 3]
    assert dims(cleaned.graph.output[0]) == [1, 3, 5, 7]


@pytest.mark.parametrize(
    ("shape", "layout", "channels", "size"),
    [
        ((1, 3, 20, 30), "nchw", 3, (20, 30)),
        ((1, 20, 30, 3), "nhwc", 3, (20, 30)),
        ((1, 1, 20, 30), "nchw", 1, (20, 30)),
        ((1, 20, 30, 1), "nhwc", 1, (20, 30)),
        ((1, 1, 30, 3), "nhwc", 3, (1, 30)),
        ((8, 3, "h", 30), "nchw", 3, None),
        (("n", "c", "h", "w"), "nchw", 3, None),
        ((1, 20, 30, "c"), "nhwc", 3, (20, 30)),
    ],
)
def test_the_picture_input_is_read_from_its_shape(
    tmp_path: Path,
    shape: tuple[int | str, ...],
    layout: str,
    channels: int,
    size: tuple[int, int] | None,
) -> None:
    port = image_input(saved(network(shape), tmp_path))
    assert (port.layout, port.channels, port.size) == (layout, channels, size)


def test_a_weight_that_only_a_branch_reads_stays(tmp_path: Path) -> None:
    branches = [
        helper.make_graph(
            [helper.make_node("Add", ["y0", bias], [f"out_{bias}"])],
            bias,
            [],
            [helper.make_tensor_value_info(f"out_{bias}", TensorProto.FLOAT, None)],
        )
        for bias in ("one", "two")
    ]
    model = network()
    model.graph.node[1].output[0] = "y0"
    model.graph.node.append(
        helper.make_node("If", ["flag"], ["y"], then_branch=branches[0], else_branch=branches[1])
    )
    constants = {"one": np.float32(1), "two": np.float32(2), "flag": np.bool_(True)}
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    origin = saved(model, tmp_path)
    picture = np.ones((1, 3, 8, 8), np.float32)
    np.testing.assert_array_equal(run(clean(origin), picture)[0], run(origin, picture)[0])


def test_weights_beside_the_model_are_taken_into_the_cleaned_file(tmp_path: Path) -> None:
    values = np.random.default_rng(3).random((4, 3, 3, 3), dtype=np.float32)
    (tmp_path / "weights.bin").write_bytes(b"1234" + values.tobytes())
    path = saved(external("weights.bin", 4, values.nbytes), tmp_path)
    cleaned = clean(path)
    inside = numpy_helper.to_array(
        onnx.load(cleaned, load_external_data=False).graph.initializer[0]
    )
    np.testing.assert_array_equal(inside, values)

    (tmp_path / "weights.bin").write_bytes(b"1234" + (values + 1).tobytes())
    assert clean(path) != cleaned, "other weights, the same file beside them"


def test_a_downloaded_model_may_have_no_weights_beside_it(cache: Path) -> None:
    (cache / "assets").mkdir(parents=True)
    (cache / "assets" / "weights.bin").write_bytes(bytes(4 * 4 * 27))
    path = saved(external("weights.bin"), cache / "assets")
    with pytest.raises(ModelError, match="refused for a downloaded model"):
        clean(path)


def test_a_file_is_cleaned_once_and_again_when_it_was_damaged(tmp_path: Path) -> None:
    path = saved(network(), tmp_path)
    first = clean(path)
    content, written = first.read_bytes(), first.stat().st_mtime_ns
    assert clean(path) == first
    assert first.stat().st_mtime_ns == written
    first.write_bytes(content[:-1])
    assert clean(path).read_bytes() == content


def test_each_size_and_each_content_has_its_own_cleaned_file(tmp_path: Path) -> None:
    path = saved(network(dims=(1, 3, "h", "w")), tmp_path)
    other = saved(network(dims=(1, 3, "h", "w"), opset=18), tmp_path, "other.onnx")
    assert len({clean(p, s) for p in (path, other) for s in ((8, 8), (8, 9), (9, 8))}) == 6


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_hostile_file_ends_in_one_line(case: Hostile, tmp_path: Path, cache: Path) -> None:
    path = case.write(tmp_path)
    with pytest.raises(ModelError, match=case.message) as caught:
        ends(lambda: clean(path, case.size))
    assert "\n" not in str(caught.value)
    assert "hostile.onnx" in str(caught.value), "which file it is"
    assert not (cache / "cleaned").exists() or not os.listdir(cache / "cleaned")


def test_an_outline_counts_what_is_inside(tmp_path: Path) -> None:
    summary = outline(saved(network(opset=15), tmp_path))
    assert (summary.opset, summary.operators, summary.weights) == (15, {"Conv": 1, "Relu": 1}, 108)
    assert summary.image is not None
    assert summary.fault == ""
    strange = outline(saved(network(dims=(1, 3)), tmp_path))
    assert strange.image is None
    assert "expected four dimensions" in strange.fault
