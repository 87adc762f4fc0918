"""Malformed and malicious ONNX files. CASES: how to write each, and the expected error.

`python -m tests.hostile.models FOLDER` writes them all, to try a command on.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Dims = tuple[int | str, ...]


@dataclass(frozen=True)
class Hostile:
    """One file. write: folder -> the path to give to a command. message: a pattern of the error."""

    name: str
    write: Callable[[Path], Path]
    message: str
    size: tuple[int, int] | None = None

    def __str__(self) -> str:
        return self.name


def network(
    dims: Dims = (1, 3, 8, 8),
    element: int = TensorProto.FLOAT,
    channels: int = 3,
    opset: int = 17,
    ir_version: int = 8,
    inputs: int = 1,
) -> onnx.ModelProto:
    """One 3x3 convolution of that many input channels, ReLU; well-formed as it stands."""
    weight = np.full((4, channels, 3, 3), 0.1, np.float32)
    nodes = [
        helper.make_node("Conv", ["x0", "weight"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "hostile",
        [helper.make_tensor_value_info(f"x{i}", element, dims) for i in range(inputs)],
        [helper.make_tensor_value_info("y", element, None)],
        [numpy_helper.from_array(weight, "weight")],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


def _bytes(content: bytes, folder: Path) -> Path:
    path = folder / "hostile.onnx"
    path.write_bytes(content)
    return path


def _model(make: Callable[[], onnx.ModelProto], folder: Path) -> Path:
    return _bytes(make().SerializeToString(), folder)


def _with(folder: Path, **options: object) -> Path:
    return _model(partial(network, **options), folder)  # type: ignore[arg-type]


def _cut(part: float, folder: Path) -> Path:
    content = network().SerializeToString()
    return _bytes(content[: min(len(content) - 1, int(len(content) * part))], folder)


def _folder(folder: Path) -> Path:
    (folder / "hostile.onnx").mkdir()
    return folder / "hostile.onnx"


def external(
    location: str, offset: int | None = None, length: int | None = None
) -> onnx.ModelProto:
    """The network with its weights in another file."""
    model = network()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": location, "offset": offset, "length": length}
    for key, value in entries.items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    return model


def _external(location: str, folder: Path, content: bytes = bytes(4 * 4 * 27)) -> Path:
    """The model in its own folder, and weights at the place that the location points to."""
    inner = folder / "model"
    inner.mkdir()
    (folder / "secret.bin").write_bytes(content)
    (inner / "weights.bin").write_bytes(content)
    named = location.format(folder=folder)
    return _bytes(external(named).SerializeToString(), inner)


def _not_utf8(folder: Path) -> Path:
    content = external("weights.bin").SerializeToString()
    return _bytes(content.replace(b"weights.bin", b"weights\xff\xff\xff\xff"), folder)


def _through_a_link(folder: Path) -> Path:
    path = _external("link.bin", folder)
    os.symlink(folder / "secret.bin", path.parent / "link.bin")
    return path


def _short_weights(folder: Path) -> Path:
    model = external("weights.bin", offset=1 << 40, length=4 * 4 * 27)
    (folder / "weights.bin").write_bytes(bytes(16))
    return _bytes(model.SerializeToString(), folder)


def _in_an_attribute(folder: Path) -> Path:
    """The path that leaves the folder is not in an initialiser but in a Constant node."""
    model = network()
    tensor = external("../secret.bin").graph.initializer[0]
    model.graph.node.insert(0, helper.make_node("Constant", [], ["constant"], value=tensor))
    (folder / "secret.bin").write_bytes(bytes(4 * 4 * 27))
    (folder / "model").mkdir()
    return _bytes(model.SerializeToString(), folder / "model")


def _without_inputs() -> onnx.ModelProto:
    model = network()
    del model.graph.input[:]
    model.graph.node[0].input[0] = "weight"
    return model


def _without_graph() -> onnx.ModelProto:
    model = network()
    model.ClearField("graph")
    return model


def _nested(folder: Path, depth: int = 2000) -> Path:
    """Nested If nodes, deeper than a parser should follow; onnx cannot build them."""

    def field(number: int, content: bytes) -> bytes:
        size, digits = len(content), bytearray()
        while size > 127:
            digits.append(size & 127 | 128)
            size >>= 7
        return bytes((number << 3 | 2, *digits, size)) + content

    graph = network().graph.SerializeToString()
    for _ in range(depth):
        branch = field(5, field(1, b"then_branch") + field(6, graph))  # NodeProto.attribute, .g
        graph = field(1, field(4, b"If") + branch)  # GraphProto.node, .op_type
    model = network()
    model.ClearField("graph")
    return _bytes(model.SerializeToString() + field(7, graph), folder)


def _absurd_constant() -> onnx.ModelProto:
    model = network()
    model.graph.initializer[0].dims[0] = 1 << 40
    return model


def _absurd_tensor() -> onnx.ModelProto:
    """Upsamples the picture to 8 million pixels a side."""
    model = network()
    scales = np.array([1, 1, 1 << 20, 1 << 20], np.float32)
    model.graph.initializer.append(numpy_helper.from_array(scales, "scales"))
    model.graph.node[1].CopyFrom(helper.make_node("Resize", ["conv", "", "scales"], ["y"]))
    return model


def _fixed_inside() -> onnx.ModelProto:
    """Flattens an 8x8 picture with the number of its pixels written down."""
    model = network()
    shape = numpy_helper.from_array(np.array([1, 4 * 8 * 8], np.int64), "shape")
    weight = numpy_helper.from_array(np.zeros((4 * 8 * 8, 2), np.float32), "dense")
    model.graph.initializer.extend([shape, weight])
    model.graph.node[1].CopyFrom(helper.make_node("Reshape", ["conv", "shape"], ["flat"]))
    model.graph.node.append(helper.make_node("MatMul", ["flat", "dense"], ["y"]))
    return model


NO_ONNX = "not an ONNX file"
OUTSIDE = "must be in the model's own folder"

CASES: tuple[Hostile, ...] = (
    Hostile("missing", lambda f: f / "hostile.onnx", "cannot be read: No such file"),
    Hostile("a folder", _folder, "expected an ONNX file, got a folder"),
    Hostile("empty", partial(_bytes, b""), r"expected an ONNX file of 1\.\.\d+ bytes, got 0"),
    Hostile("text", partial(_bytes, b"name: resnet\n" * 40), NO_ONNX),
    Hostile("PNG", partial(_bytes, b"\x89PNG\r\n\x1a\n" + bytes(99)), NO_ONNX),
    Hostile("zip", partial(_bytes, b"PK\3\4" + bytes(200)), NO_ONNX),
    Hostile("noise", partial(_bytes, np.random.default_rng(1).bytes(5000)), NO_ONNX),
    Hostile("zeros", partial(_bytes, bytes(5000)), NO_ONNX),
    Hostile("cut to a tenth", partial(_cut, 0.1), NO_ONNX),
    Hostile("cut to half", partial(_cut, 0.5), NO_ONNX),
    Hostile("last byte cut", partial(_cut, 1.0), NO_ONNX),
    Hostile("no graph", partial(_model, _without_graph), "it holds no graph"),
    Hostile("nested too deep", _nested, NO_ONNX),
    Hostile(
        "opset from the future", partial(_with, opset=999), r"expected opset 1\.\.\d+, got 999"
    ),
    Hostile("opset 0", partial(_with, opset=0), r"expected opset 1\.\.\d+, got 0"),
    Hostile("IR from the future", partial(_with, ir_version=99), r"IR version 1\.\.\d+, got 99"),
    Hostile("rank 2", partial(_with, dims=(1, 3)), "expected four dimensions .*, got 2"),
    Hostile("rank 3", partial(_with, dims=(3, 8, 8)), "expected four dimensions .*, got 3"),
    Hostile("rank 5", partial(_with, dims=(1, 3, 2, 8, 8)), "expected four dimensions .*, got 5"),
    Hostile("no input", partial(_model, _without_inputs), "expected one input, .*, got none"),
    Hostile("two inputs", partial(_with, inputs=2), "expected one input, .*, got 'x0', 'x1'"),
    Hostile(
        "seven channels",
        partial(_with, dims=(1, 7, 8, 8)),
        "expected an image of 1 or 3 channels, got 1x7x8x8",
    ),
    Hostile(
        "text input",
        partial(_with, element=TensorProto.STRING),
        "expected float32, float16, uint8, got string",
    ),
    Hostile("unknown type", partial(_with, element=77), "expected float32, .*, got type 77"),
    Hostile("no fixed size", partial(_with, dims=(1, 3, "h", "w")), "give one with --input-size"),
    Hostile(
        "absurd input",
        partial(_with, dims=(1, 3, 10**6, 10**6)),
        r"expected an input of 1\.\.8192 pixels a side, got 1000000x1000000",
    ),
    Hostile("absurd constant", partial(_model, _absurd_constant), "expected tensors of at most"),
    Hostile("absurd tensor", partial(_model, _absurd_tensor), "expected tensors of at most"),
    Hostile(
        "made for one size",
        partial(_model, _fixed_inside),
        "made for an input of 8x8, it does not run at 32x16",
        size=(16, 32),
    ),
    Hostile("weights one folder up", partial(_external, "../secret.bin"), OUTSIDE),
    Hostile("weights at an absolute path", partial(_external, "{folder}/secret.bin"), OUTSIDE),
    Hostile("weights around a corner", partial(_external, "a/../../secret.bin"), OUTSIDE),
    Hostile("weights through a link", _through_a_link, OUTSIDE),
    Hostile("weights in a Constant", _in_an_attribute, OUTSIDE),
    Hostile("weights without a name", partial(_external, ""), "expected one file name"),
    Hostile("weights with a zero byte", partial(_external, "a\0b"), "expected one file name"),
    Hostile("weights with a name that is no text", _not_utf8, "expected one file name"),
    Hostile("weights missing", partial(_external, "absent.bin"), "there is no such file"),
    Hostile("weights cut short", _short_weights, "weights cannot be read|are empty"),
)


def main(folder: Path) -> None:
    for case in CASES:
        place = folder / case.name.replace(" ", "_")
        place.mkdir(parents=True)
        print(case.write(place))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
