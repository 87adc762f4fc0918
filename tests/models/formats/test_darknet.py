"""Darknet models as ONNX: against a plain evaluation of the configuration, and against OpenCV 4."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from stillframe.errors import ModelError
from stillframe.models.formats.darknet import LAYERS, YOLOV3_TINY, ConfigSection, convert, parse
from tests.packages import unpacked

Picture = NDArray[Any]

OPENCV = "opencv-python-headless==4.10.0.84"  # the last line of OpenCV that reads Darknet files

# Every layer and option that is supported; the input is 11x17, so that halving is uneven.
CONFIGURATION = """
[net]
width=32
height=32
channels=3
[convolutional]          # folded batch norm
batch_normalize=1
filters=6
size=3
stride=1
pad=1
activation=leaky
[maxpool]
size=2
stride=2
[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=linear
[maxpool]
size=2
stride=1
[convolutional]
filters=8
size=1
stride=1
activation=leaky
[shortcut]
from=-3
activation=linear
[convolutional]
filters=21
size=1
stride=1
pad=1
activation=linear
[yolo]
mask=0,1,2
anchors=1,2,3,4,5,6
classes=2
num=3
[route]
layers=-3
[upsample]
stride=2
[route]
layers=-1,1
[convolutional]
filters=21
size=3
stride=1
pad=1
activation=linear
[yolo]
mask=0,1,2
anchors=1,2,3,4,5,6
classes=2
num=3
"""
SIZE = (12, 20)


def draw(
    sections: tuple[ConfigSection, ...], channels: list[int], seed: int = 0
) -> NDArray[np.float32]:
    """Random weights in the file's order. channels: what each convolution reads."""
    rng, numbers = np.random.default_rng(seed), []
    for section, read in zip(
        [s for s in sections if s.kind == "convolutional"], channels, strict=True
    ):
        filters, size = section.number("filters", 1), section.number("size", 1)
        numbers.append(rng.normal(size=filters))
        if section.number("batch_normalize", 0):
            numbers += [rng.normal(size=(2, filters)).ravel(), rng.uniform(0.5, 2, filters)]
        numbers.append(rng.normal(size=filters * read * size * size) / np.sqrt(read * size * size))
    return np.concatenate(numbers).astype("<f4")


READ = [3, 6, 8, 8, 14]


def write(folder: Path, numbers: NDArray[np.float32], version: tuple[int, int] = (0, 2)) -> Path:
    path = folder / "net.weights"
    seen = np.array([64], "<i8" if version >= (0, 2) else "<i4").tobytes()
    path.write_bytes(np.array([*version, 0], "<i4").tobytes() + seen + numbers.tobytes())
    return path


def evaluate(sections: tuple[ConfigSection, ...], numbers: Picture, x: Picture) -> list[Picture]:
    """x (C, H, W) through the configuration as Darknet's own sources define it, in doubles."""
    stream = iter(numbers.astype(np.float64))

    def take(*shape: int) -> Picture:
        return np.array([next(stream) for _ in range(int(np.prod(shape)))]).reshape(shape)

    layers: list[Picture] = []
    heads: list[Picture] = []
    for section in sections:
        x = layers[-1] if layers else x
        match section.kind:
            case "convolutional":
                filters, size = section.number("filters", 1), section.number("size", 1)
                stride, pad = section.number("stride", 1), section.number("pad", 0) * (size // 2)
                bias = take(filters)
                normal = section.number("batch_normalize", 0)
                scale, mean, variance = (take(filters) for _ in range(3)) if normal else [None] * 3
                weight = take(filters, len(x), size, size)
                padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
                rows = (padded.shape[1] - size) // stride + 1
                columns = (padded.shape[2] - size) // stride + 1
                y = np.empty((filters, rows, columns))
                for i in range(rows):
                    for j in range(columns):
                        top, left = i * stride, j * stride
                        part = padded[:, top : top + size, left : left + size]
                        y[:, i, j] = (weight * part).sum((1, 2, 3))
                if scale is not None and mean is not None and variance is not None:
                    spread = np.sqrt(variance)[:, None, None] + 1e-6
                    y = (y - mean[:, None, None]) / spread * scale[:, None, None]
                y += bias[:, None, None]
                if section.options["activation"] == "leaky":
                    y = np.where(y > 0, y, y * 0.1)
            case "maxpool":
                size, stride = section.number("size", 1), section.number("stride", 1)
                rows, columns = ((n - 1) // stride + 1 for n in x.shape[1:])
                before = (size - 1) // 2
                y = np.full((len(x), rows, columns), -np.inf)
                for i in range(rows):
                    for j in range(columns):
                        top, left = i * stride - before, j * stride - before
                        part = x[:, max(0, top) : top + size, max(0, left) : left + size]
                        y[:, i, j] = part.max((1, 2))
            case "shortcut":
                y = x + layers[section.number("from", 0)]
            case "upsample":
                y = x.repeat(2, 1).repeat(2, 2)
            case "route":
                y = np.concatenate([layers[int(i)] for i in section.options["layers"].split(",")])
            case "yolo":
                y = x
                heads.append(x)
        layers.append(y)
    return heads


def run(content: bytes, x: Picture) -> list[Picture]:
    session = onnxruntime.InferenceSession(content)
    outputs: list[Picture] = session.run(None, {"image": x})
    return outputs


def test_every_layer_computes_what_darknet_defines(tmp_path: Path) -> None:
    sections = parse(CONFIGURATION)[1:]
    assert {s.kind for s in sections} == set(LAYERS)
    numbers = draw(sections, READ)
    x = np.random.default_rng(1).random((1, 3, *SIZE), dtype=np.float32)
    got = run(convert(sections, write(tmp_path, numbers)), x)
    expected = evaluate(sections, numbers, x[0])
    assert [g.shape[1:] for g in got] == [e.shape for e in expected] == [(21, 3, 5), (21, 6, 10)]
    for mine, plain in zip(got, expected, strict=True):
        np.testing.assert_allclose(mine[0], plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(11, 17), (1, 1)])
def test_pooling_of_odd_sizes_rounds_up(tmp_path: Path, size: tuple[int, int]) -> None:
    sections = parse(
        "[convolutional]\nfilters=2\nactivation=linear\n[maxpool]\nsize=2\nstride=2\n[yolo]"
    )
    numbers = draw(sections, [3])
    x = np.random.default_rng(1).random((1, 3, *size), dtype=np.float32)
    got = run(convert(sections, write(tmp_path, numbers)), x)[0]
    np.testing.assert_allclose(got[0], evaluate(sections, numbers, x[0])[0], rtol=1e-5)


def test_the_short_header_of_old_files_is_read(tmp_path: Path) -> None:
    sections = parse(CONFIGURATION)
    numbers = draw(sections, READ)
    new = convert(sections, write(tmp_path, numbers))
    assert convert(sections, write(tmp_path, numbers, version=(0, 1))) == new


@pytest.mark.slow
@pytest.mark.fetch
def test_opencv_reads_the_same_network(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    package = unpacked(OPENCV, tmp_path_factory.getbasetemp())
    sections = parse(CONFIGURATION)
    numbers = draw(sections, READ)
    weights = write(tmp_path, numbers)
    (tmp_path / "net.cfg").write_text(re.sub(r" +#.*", "", CONFIGURATION))
    x = np.random.default_rng(1).random((1, 3, *SIZE), dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    program = """if True:
        import sys, numpy, cv2
        assert cv2.__version__.startswith("4."), cv2.__version__
        net = cv2.dnn.readNetFromDarknet("net.cfg", "net.weights")
        net.setInput(numpy.load("x.npy"))
        numpy.savez("y.npz", *net.forward(["conv_6", "conv_11"]))
    """
    command = [sys.executable, "-c", program]
    subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(package)}, check=True)
    theirs = np.load(tmp_path / "y.npz")
    for mine, name in zip(run(convert(sections, weights), x), theirs.files, strict=True):
        np.testing.assert_allclose(mine, theirs[name], rtol=1e-4, atol=1e-5)


def test_yolov3_tiny_has_the_published_number_of_weights(tmp_path: Path) -> None:
    published = (35434956 - 20) // 4  # the size of yolov3-tiny.weights without its header
    path = write(tmp_path, np.zeros(published, np.float32))
    model = onnx.load_model_from_string(convert(YOLOV3_TINY, path))
    assert sum(n.op_type == "Conv" for n in model.graph.node) == 13
    assert len(model.graph.output) == 2


FAULTS = [
    ("[convolutional", "line 1: cannot read '.convolutional'"),
    ("filters=3", "line 1: cannot read 'filters=3'"),
    ("[crnn]\n[yolo]", r"layer 0 \[crnn\] is not supported; supported: convolutional, maxpool"),
    ("[route]\nlayers=-1\n[yolo]", "layer 0 refers to '-1', which is no layer before it"),
    ("[convolutional]\nactivation=linear\n[route]\nlayers=7\n[yolo]", "layer 1 refers to '7'"),
    ("[convolutional]\nactivation=linear\n[route]\nlayers=x\n[yolo]", "layer 1 refers to 'x'"),
    ("[convolutional]\nactivation=linear", r"expected at least one \[yolo\] section"),
    ("[convolutional]\nactivation=mish\n[yolo]", "expected activation leaky or linear, got 'mish'"),
    ("[convolutional]\nfilters=many\n[yolo]", "filters: expected a whole number, got 'many'"),
    ("[convolutional]\ngroups=2\n[yolo]", "expected convolutions of one group"),
    (
        "[convolutional]\nactivation=linear\nfilters=2\n[yolo]",
        "layer 0 needs 6 numbers, 2 are left",
    ),
    ("[convolutional]\nactivation=linear\n[shortcut]\nfrom=-1\nactivation=leaky\n[yolo]", "linear"),
]


@pytest.mark.parametrize(("text", "message"), FAULTS)
def test_what_cannot_be_converted_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        convert(parse(text), write(tmp_path, np.zeros(4, np.float32)))


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    sections = parse(CONFIGURATION)
    numbers = draw(sections, READ)
    more = np.concatenate((numbers, numbers[:3]))
    with pytest.raises(ModelError, match=f"expected {len(numbers)} numbers, got {len(more)}"):
        convert(sections, write(tmp_path, more))
    with pytest.raises(ModelError, match="cut short, or of another model"):
        convert(sections, write(tmp_path, numbers[:-3]))
    (tmp_path / "net.weights").write_bytes(b"weights!")
    with pytest.raises(ModelError, match="expected Darknet weights, got 8 bytes"):
        convert(sections, tmp_path / "net.weights")
    (tmp_path / "net.weights").write_bytes(write(tmp_path, numbers).read_bytes()[:-2])
    with pytest.raises(ModelError, match="the file is cut short"):
        convert(sections, tmp_path / "net.weights")
