"""The one table of operator cases: what an ONNX model says and which operators it becomes.

Read by the importer's test (oracle against ONNX Runtime) and by the engine's tests. Sizes are odd,
unequal and small, so that swapped axes and edges show.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[Any]
Step = tuple[str, Sequence[Any], str | Sequence[str], Mapping[str, Any]]
"""ONNX operator, inputs (names or constants), output or outputs, attributes."""


@dataclass(frozen=True)
class Case:
    """A small ONNX model from feeds (name -> shape) to outputs.

    ops: the engine's operators of the optimised graph, in order. tolerance: largest difference to
    ONNX Runtime, relative to the largest number of the output or 1.
    """

    name: str
    steps: tuple[Step, ...]
    ops: tuple[str, ...]
    feeds: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("y",)
    opset: int = 17
    tolerance: float = 2e-6

    def __str__(self) -> str:
        return self.name

    def model(self) -> bytes:
        return model(self.steps, self.feeds, self.outputs, self.opset)

    def inputs(self, seed: int = 0) -> dict[str, Array]:
        """Random feeds, as the model declares them."""
        rng = np.random.default_rng(seed)
        return {
            name: rng.normal(size=shape).astype(np.float32) for name, shape in self.feeds.items()
        }


def model(
    steps: Sequence[Step],
    feeds: Mapping[str, tuple[int, ...]],
    outputs: Sequence[str],
    opset: int = 17,
    domains: Mapping[str, int] | None = None,
) -> bytes:
    """The bytes of an ONNX model; an array among a step's inputs becomes an initialiser."""
    nodes, initializers = [], []
    for number, (op, inputs, outs, attrs) in enumerate(steps):
        names = []
        for index, each in enumerate(inputs):
            if not isinstance(each, str):
                tensor = numpy_helper.from_array(np.asarray(each), f"k{number}_{index}")
                initializers.append(tensor)
                each = tensor.name
            names.append(each)
        attrs = dict(attrs)
        domain = attrs.pop("domain", "")
        outs = [outs] if isinstance(outs, str) else list(outs)
        node = helper.make_node(op, names, outs, name=f"n{number}", domain=domain, **attrs)
        nodes.append(node)
    ports = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in feeds.items()]
    ends = [onnx.ValueInfoProto(name=name) for name in outputs]
    for end in ends:
        end.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    graph = helper.make_graph(nodes, "case", ports, ends, initializers)
    imports = [helper.make_opsetid("", opset)]
    domains = {"com.microsoft": 1, **(domains or {})}
    imports += [helper.make_opsetid(name, version) for name, version in domains.items()]
    built = helper.make_model(graph, opset_imports=imports, ir_version=min(opset // 2 + 2, 9))
    return bytes(built.SerializeToString())


def w(*shape: int, scale: float = 0.5, shift: float = 0.0) -> Array:
    """Constant numbers, the same for the same shape."""
    rng = np.random.default_rng(shape)
    return (rng.normal(size=shape) * scale + shift).astype(np.float32)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


def number(value: float) -> Array:
    return np.array(value, np.float32)


X = (1, 3, 9, 11)
"""The usual picture: 3 channels, 9 rows, 11 columns."""
X4 = (1, 4, 9, 11)
X8 = (1, 8, 5, 7)


def one(
    name: str,
    op: str,
    inputs: Sequence[Any],
    ops: Sequence[str],
    shape: tuple[int, ...] = X,
    *,
    opset: int = 17,
    tolerance: float = 2e-6,
    **attrs: Any,
) -> Case:
    """A case of one operator, fed "x" of this shape."""
    return Case(
        name,
        ((op, inputs, "y", attrs),),
        tuple(ops),
        {"x": shape},
        opset=opset,
        tolerance=tolerance,
    )


def conv(name: str, weights: Array, shape: tuple[int, ...] = X, **attrs: Any) -> Case:
    ops = attrs.pop("ops", ("Conv",))
    return one(f"Conv {name}", "Conv", ["x", weights, w(weights.shape[0])], ops, shape, **attrs)


def up(name: str, weights: Array, ops: Sequence[str], shape: Any = X, **attrs: Any) -> Case:
    depth = weights.shape[1] * attrs.get("group", 1)
    inputs = ["x", weights, w(depth)]
    return one(f"ConvTranspose {name}", "ConvTranspose", inputs, ops, shape, **attrs)


def chain(name: str, ops: Sequence[str], *steps: Step, shape: Any = X, **more: Any) -> Case:
    """A case of several operators from "x" to "y"."""
    return Case(name, steps, tuple(ops), {"x": shape}, **more)


CONVS = (
    conv("3 × 3", w(5, 3, 3, 3), pads=[1, 1, 1, 1]),
    conv("1 × 1", w(5, 3, 1, 1)),
    conv("no bias, stride", w(5, 3, 3, 3), strides=[2, 3]),
    conv("asymmetric pads", w(5, 3, 2, 4), pads=[0, 1, 2, 3]),
    conv("dilated", w(5, 3, 3, 2), pads=[2, 1, 2, 1], dilations=[2, 3]),
    conv("SAME_UPPER", w(5, 3, 3, 4), auto_pad="SAME_UPPER", strides=[2, 2]),
    conv("SAME_LOWER", w(5, 3, 2, 4), auto_pad="SAME_LOWER", strides=[1, 2]),
    conv("VALID", w(5, 3, 3, 3), auto_pad="VALID"),
    conv("depthwise", w(8, 1, 3, 3), X8, group=8, pads=[1, 1, 1, 1]),
    conv("depthwise stride", w(8, 1, 5, 3), X8, group=8, pads=[2, 1, 2, 1], strides=[2, 2]),
    conv("few grouped channels", w(6, 4, 3, 3), X8, group=2),
    conv(
        "grouped",
        w(10, 10, 1, 3),
        (1, 20, 4, 5),
        group=2,
        ops=("Slice", "Conv", "Slice", "Conv", "Concat"),
    ),
    conv("many groups", w(144, 1, 1, 1), (1, 72, 2, 3), group=72),
    one("Conv without bias", "Conv", ["x", w(5, 3, 3, 3)], ["Conv"]),
    up("2 × 2 stride 2", w(3, 5, 2, 2), ("Conv", "DepthToSpace"), strides=[2, 2]),
    up(
        "k 4 stride 2",
        w(3, 5, 4, 4),
        ("Conv", "DepthToSpace", "Slice"),
        pads=[1] * 4,
        strides=[2, 2],
    ),
    up(
        "k 3 stride 2 output padding",
        w(3, 9, 3, 3),
        ("Conv", "Conv", "Conv", "Conv", "Concat", "DepthToSpace", "Slice"),
        pads=[1] * 4,
        strides=[2, 2],
        output_padding=[1, 1],
    ),
    up(
        "k 3 stride 2 wide crop",
        w(3, 9, 3, 3),
        ("Conv", "Conv", "Conv", "Conv", "Concat", "DepthToSpace", "Slice"),
        pads=[2, 2, 1, 2],
        strides=[2, 2],
    ),
    up("stride 1", w(3, 5, 3, 2), ("Conv",), pads=[1, 0, 1, 1]),
    up("stride 1 dilated", w(3, 5, 3, 2), ("Conv",), dilations=[2, 3]),
    up(
        "dilated and strided",
        w(3, 2, 3, 3),
        ("Conv", "DepthToSpace", "Slice"),
        dilations=[2, 3],
        strides=[2, 2],
    ),
    up("k 2 stride 3", w(3, 2, 2, 2), ("Conv", "DepthToSpace", "Slice"), strides=[3, 3]),
    up(
        "output shape",
        w(3, 2, 3, 3),
        ("Conv", "DepthToSpace", "Slice"),
        strides=[2, 2],
        output_shape=[18, 22],
    ),
    up(
        "SAME_UPPER",
        w(3, 2, 3, 3),
        ("Conv", "DepthToSpace"),
        strides=[2, 2],
        auto_pad="SAME_UPPER",
    ),
    up(
        "wide crop",
        w(3, 2, 5, 5),
        ("Conv", "DepthToSpace", "Slice"),
        strides=[2, 2],
        pads=[3, 4, 2, 4],
    ),
    up(
        "grouped",
        w(8, 2, 2, 2),
        ("Conv", "DepthToSpace"),
        X8,
        strides=[2, 2],
        group=4,
    ),
    up(
        "depthwise",
        w(8, 1, 4, 4),
        ("Conv", "Conv", "Conv", "Conv", "Concat", "DepthToSpace", "Slice"),
        X8,
        strides=[2, 2],
        pads=[1, 1, 1, 1],
        group=8,
    ),
    chain(
        "ConvTranspose, BatchNormalization, Relu",
        ("Conv", "DepthToSpace"),
        ("ConvTranspose", ["x", w(3, 5, 2, 2), w(5)], "t", {"strides": [2, 2]}),
        ("BatchNormalization", ["t", w(5), w(5), w(5), w(5, scale=0.1, shift=1)], "b", {}),
        ("Relu", ["b"], "y", {}),
    ),
)

POOLS = (
    one("MaxPool", "MaxPool", ["x"], ["MaxPool"], kernel_shape=[2, 3], strides=[2, 2]),
    one(
        "MaxPool stride 1 same",
        "MaxPool",
        ["x"],
        ["MaxPool"],
        kernel_shape=[2, 2],
        auto_pad="SAME_UPPER",
    ),
    one(
        "MaxPool padded, ceil, dilated",
        "MaxPool",
        ["x"],
        ["MaxPool"],
        kernel_shape=[3, 2],
        strides=[2, 3],
        pads=[1, 0, 1, 1],
        dilations=[2, 1],
        ceil_mode=1,
    ),
    *(
        one(
            f"AveragePool ceil {ceil} count {count}",
            "AveragePool",
            ["x"],
            ["AveragePool"],
            kernel_shape=[3, 2],
            strides=[2, 2],
            pads=[1, 0, 1, 1],
            ceil_mode=ceil,
            count_include_pad=count,
            opset=19,
        )
        for ceil in (0, 1)
        for count in (0, 1)
    ),
    one(
        "AveragePool of padding alone",
        "AveragePool",
        ["x"],
        ["AveragePool"],
        opset=19,
        kernel_shape=[2, 2],
        pads=[1, 0, 1, 0],
        dilations=[10, 1],
    ),
    one("AveragePool of all", "AveragePool", ["x"], ["GlobalPool"], kernel_shape=[9, 11]),
    one("MaxPool of one", "MaxPool", ["x"], ["Slice"], kernel_shape=[1, 1], strides=[2, 3]),
    one("GlobalAveragePool", "GlobalAveragePool", ["x"], ["GlobalPool"]),
    one("GlobalMaxPool", "GlobalMaxPool", ["x"], ["GlobalPool"]),
    one("ReduceMean 13", "ReduceMean", ["x"], ["GlobalPool"], axes=[2, 3], opset=13),
    one("ReduceMean 18", "ReduceMean", ["x", ints(-1, 2)], ["GlobalPool"], opset=18),
    one("ReduceMean flat", "ReduceMean", ["x"], ["GlobalPool"], axes=[2, 3], keepdims=0),
    one("ReduceMean of channels", "ReduceMean", ["x"], ["Conv"], axes=[1]),
    chain(
        "squeeze and excite through Gemm",
        ("GlobalPool", "Conv", "Conv", "Binary"),
        ("GlobalAveragePool", ["x"], "p", {}),
        ("Flatten", ["p"], "f", {}),
        ("Gemm", ["f", w(3, 2), w(2)], "g", {"alpha": 0.5}),
        ("Relu", ["g"], "r", {}),
        ("Gemm", ["r", w(3, 2), w(3)], "h", {"transB": 1, "beta": 2.0}),
        ("HardSigmoid", ["h"], "s", {}),
        ("Unsqueeze", ["s", ints(2, 3)], "u", {}),
        ("Mul", ["x", "u"], "y", {}),
    ),
)

ACTIVATIONS = (
    *(
        one(name, name, ["x"], ["Unary"], tolerance=1e-5)
        for name in ("Relu", "Sigmoid", "Tanh", "HardSwish", "Softplus", "Erf", "Exp", "Abs")
    ),
    one("Mish", "Mish", ["x"], ["Unary"], opset=18, tolerance=1e-5),
    one("Neg", "Neg", ["x"], ["Affine"]),
    one("LeakyRelu", "LeakyRelu", ["x"], ["Unary"], alpha=0.2),
    one("LeakyRelu of 0", "LeakyRelu", ["x"], ["Unary"], alpha=0.0),
    one("Elu", "Elu", ["x"], ["Unary"], alpha=0.7),
    one("HardSigmoid", "HardSigmoid", ["x"], ["Unary"], alpha=0.3, beta=0.4),
    one("Clip", "Clip", ["x", number(-0.3), number(0.7)], ["Unary"]),
    one("Clip from 0", "Clip", ["x", number(0)], ["Unary"]),
    one("Clip below", "Clip", ["x", "", number(0.5)], ["Unary"]),
    one("Clip of nothing", "Clip", ["x"], ["Unary"]),
    one("Clip 6", "Clip", ["x"], ["Unary"], opset=6, min=-0.2, max=0.3),
    one("PRelu", "PRelu", ["x", w(3, 1, 1)], ["Unary"]),
    one("PRelu of one slope", "PRelu", ["x", number(0.2)], ["Unary"]),
    one("Gelu", "Gelu", ["x"], ["Unary"], opset=20),
    one("Gelu tanh", "Gelu", ["x"], ["Unary"], opset=20, approximate="tanh"),
    one("com.microsoft Gelu", "Gelu", ["x"], ["Unary"], domain="com.microsoft"),
    one("com.microsoft FastGelu", "FastGelu", ["x"], ["Unary"], domain="com.microsoft"),
    one("Pow 2", "Pow", ["x", number(2)], ["Unary"]),
    one("Pow 3", "Pow", ["x", number(3)], ["Unary", "Binary"]),
    chain(
        "Pow 0.5", ("Unary", "Unary"), ("Abs", ["x"], "a", {}), ("Pow", ["a", number(0.5)], "y", {})
    ),
    chain("Sqrt", ("Unary", "Unary"), ("Abs", ["x"], "a", {}), ("Sqrt", ["a"], "y", {})),
    one("Softmax", "Softmax", ["x"], ["Softmax"], axis=1),
    one("Softmax 11", "Softmax", ["x"], ["Softmax"], (1, 6, 1, 1), axis=1, opset=11),
    chain(
        "Softmax channels last",
        ("Softmax",),
        ("Transpose", ["x"], "t", {"perm": [0, 2, 3, 1]}),
        ("Softmax", ["t"], "y", {"axis": -1}),
    ),
)


def spelled(name: str, *steps: Step, ops: Sequence[str] = ("Unary",), **more: Any) -> Case:
    return chain(f"spelt {name}", ops, *steps, tolerance=1e-5, **more)


SPELLED = (
    spelled("SiLU", ("Sigmoid", ["x"], "s", {}), ("Mul", ["x", "s"], "y", {})),
    spelled(
        "HardSwish, Div last",
        ("Add", ["x", number(3)], "a", {}),
        ("Clip", ["a", number(0), number(6)], "c", {}),
        ("Mul", ["x", "c"], "m", {}),
        ("Div", ["m", number(6)], "y", {}),
    ),
    spelled(
        "HardSwish, Div inside",
        ("Add", ["x", number(3)], "a", {}),
        ("Clip", ["a", number(0), number(6)], "c", {}),
        ("Div", ["c", number(6)], "d", {}),
        ("Mul", ["d", "x"], "y", {}),
    ),
    spelled(
        "HardSwish of float16 constants",
        ("Mul", ["x", number(0.1666259765625)], "a", {}),
        ("Add", ["x", number(3)], "b", {}),
        ("Clip", ["b", number(0), number(6)], "c", {}),
        ("Mul", ["a", "c"], "y", {}),
        ops=("Unary", "Affine"),
    ),
    spelled(
        "HardSwish of Min and Max",
        ("Add", ["x", number(3)], "a", {}),
        ("Relu", ["a"], "b", {}),
        ("Min", ["b", number(6)], "c", {}),
        ("Mul", ["x", "c"], "m", {}),
        ("Mul", ["m", number(1 / 6)], "y", {}),
    ),
    spelled(
        "HardSwish of HardSigmoid",
        ("HardSigmoid", ["x"], "h", {"alpha": 1 / 6, "beta": 0.5}),
        ("Mul", ["x", "h"], "y", {}),
    ),
    spelled(
        "HardSwish behind a scaled Conv",
        ("Conv", ["x", w(5, 3, 1, 1)], "c", {}),
        ("Mul", ["c", number(0.7)], "m", {}),
        ("Add", ["m", number(0.2)], "s", {}),
        ("Add", ["s", number(3)], "a", {}),
        ("Clip", ["a", number(0), number(6)], "k", {}),
        ("Mul", ["s", "k"], "p", {}),
        ("Div", ["p", number(6)], "y", {}),
        ops=("Conv",),
    ),
    spelled(
        "HardSigmoid",
        ("Add", ["x", number(3)], "a", {}),
        ("Clip", ["a", number(0), number(6)], "c", {}),
        ("Div", ["c", number(6)], "y", {}),
    ),
    spelled(
        "Mish",
        ("Softplus", ["x"], "s", {}),
        ("Tanh", ["s"], "t", {}),
        ("Mul", ["x", "t"], "y", {}),
    ),
    spelled(
        "GELU, half last",
        ("Div", ["x", number(2**0.5)], "d", {}),
        ("Erf", ["d"], "e", {}),
        ("Add", ["e", number(1)], "a", {}),
        ("Mul", ["x", "a"], "m", {}),
        ("Mul", ["m", number(0.5)], "y", {}),
    ),
    spelled(
        "GELU, half first",
        ("Mul", ["x", number(0.5)], "h", {}),
        ("Div", ["x", number(2**0.5)], "d", {}),
        ("Erf", ["d"], "e", {}),
        ("Add", ["e", number(1)], "a", {}),
        ("Mul", ["h", "a"], "y", {}),
    ),
    spelled(
        "GELU of tanh",
        ("Pow", ["x", number(3)], "c", {}),
        ("Mul", ["c", number(0.044715)], "m", {}),
        ("Add", ["x", "m"], "p", {}),
        ("Mul", ["p", number(0.7978845608)], "i", {}),
        ("Tanh", ["i"], "t", {}),
        ("Add", ["t", number(1)], "a", {}),
        ("Mul", ["x", "a"], "k", {}),
        ("Mul", ["k", number(0.5)], "y", {}),
    ),
    spelled(
        "no SiLU: the sigmoid of something else",
        ("Add", ["x", number(1)], "a", {}),
        ("Sigmoid", ["a"], "s", {}),
        ("Mul", ["x", "s"], "y", {}),
        ops=("Affine", "Binary"),
    ),
    spelled(
        "skip around a gate",
        ("GlobalAveragePool", ["x"], "p", {}),
        ("Sigmoid", ["p"], "g", {}),
        ("Mul", ["x", "g"], "m", {}),
        ("Add", ["x", "m"], "y", {}),
        ops=("GlobalPool", "Unary", "Affine", "Binary"),
    ),
)

ARITHMETIC = (
    *(
        Case(f"{op} of two", ((op, ["x", "z"], "y", {}),), ("Binary",), {"x": X, "z": X})
        for op in ("Add", "Sub", "Mul", "Div", "Min", "Max")
    ),
    Case(
        "Sum of three", (("Sum", ["x", "z", "x"], "y", {}),), ("Binary", "Binary"), {"x": X, "z": X}
    ),
    Case(
        "Mul by a vector", (("Mul", ["x", "z"], "y", {}),), ("Binary",), {"x": X, "z": (1, 3, 1, 1)}
    ),
    Case(
        "Mul by a plane", (("Mul", ["z", "x"], "y", {}),), ("Binary",), {"x": X, "z": (1, 1, 9, 11)}
    ),
    Case(
        "Add of a row", (("Add", ["x", "z"], "y", {}),), ("Binary",), {"x": X, "z": (1, 3, 1, 11)}
    ),
    one("Add of a number", "Add", ["x", number(1.5)], ["Affine"]),
    one("Add per channel", "Add", [w(3, 1, 1), "x"], ["Affine"]),
    one("Sub from a number", "Sub", [number(1.5), "x"], ["Affine"]),
    one("Sub per channel", "Sub", ["x", w(1, 3, 1, 1)], ["Affine"]),
    one("Div per channel", "Div", ["x", w(3, 1, 1, shift=3)], ["Affine"]),
    one("Mul per position", "Mul", ["x", w(9, 11)], ["Binary"]),
    one("Mul per column", "Mul", ["x", w(11)], ["Binary"]),
    one("Max with a number", "Max", ["x", number(0.2)], ["Unary"]),
    one("Add of a picture", "Add", ["x", w(*X)], ["Binary"]),
    chain(
        "Reciprocal", ("Unary", "Binary"), ("Exp", ["x"], "e", {}), ("Reciprocal", ["e"], "y", {})
    ),
    one(
        "BatchNormalization",
        "BatchNormalization",
        ["x", w(3), w(3), w(3), w(3, scale=0.1, shift=1)],
        ["Affine"],
        epsilon=1e-3,
    ),
    one(
        "InstanceNormalization",
        "InstanceNormalization",
        ["x", w(3), w(3)],
        ["Moments", "Modulate"],
        tolerance=1e-5,
    ),
    chain(
        "normalised input, Conv, BatchNormalization, Relu, scale",
        ("Affine", "Conv", "Affine"),
        ("Sub", ["x", w(3, 1, 1)], "a", {}),
        ("Div", ["a", w(3, 1, 1, shift=3)], "b", {}),
        ("Conv", ["b", w(5, 3, 3, 3)], "c", {"pads": [1, 1, 1, 1]}),
        ("BatchNormalization", ["c", w(5), w(5), w(5), w(5, scale=0.1, shift=1)], "d", {}),
        ("Relu", ["d"], "e", {}),
        ("Mul", ["e", number(0.3)], "y", {}),
    ),
    chain(
        "residual, act after",
        ("Conv", "Conv"),
        ("Conv", ["x", w(3, 3, 1, 1)], "a", {}),
        ("Relu", ["a"], "r", {}),
        ("Conv", ["r", w(3, 3, 3, 3)], "c", {"pads": [1, 1, 1, 1]}),
        ("Add", ["r", "c"], "s", {}),
        ("Relu", ["s"], "y", {}),
    ),
    chain(
        "residual, act before",
        ("Conv", "Conv"),
        ("Conv", ["x", w(3, 3, 1, 1)], "a", {}),
        ("Conv", ["a", w(3, 3, 3, 3), w(3)], "c", {"pads": [1, 1, 1, 1]}),
        ("PRelu", ["c", w(3, 1, 1)], "p", {}),
        ("Add", ["p", "a"], "y", {}),
    ),
    chain(
        "two linear Convs",
        ("Conv",),
        ("Conv", ["x", w(7, 3, 3, 3), w(7)], "c", {"pads": [1, 1, 1, 1]}),
        ("Conv", ["c", w(2, 7, 1, 1), w(2)], "y", {}),
    ),
)

MOVES = (
    Case("Concat", (("Concat", ["x", "z"], "y", {"axis": 1}),), ("Concat",), {"x": X, "z": X4}),
    Case(
        "Concat of rows",
        (("Concat", ["x", "z"], "y", {"axis": -2}),),
        ("Concat",),
        {"x": X, "z": (1, 3, 4, 11)},
    ),
    Case(
        "Concat of columns",
        (("Concat", ["x", "z", "x"], "y", {"axis": 3}),),
        ("Concat",),
        {"x": X, "z": (1, 3, 9, 2)},
    ),
    Case(
        "Concat of Concats",
        (("Concat", ["x", "z"], "a", {"axis": 1}), ("Concat", ["a", "x"], "y", {"axis": 1})),
        ("Concat",),
        {"x": X, "z": X4},
    ),
    Case(
        "Split",
        (("Split", ["x", ints(1, 2)], ["y", "z"], {"axis": 1}),),
        ("Slice", "Slice"),
        {"x": X},
        ("y", "z"),
    ),
    Case(
        "Split 11",
        (("Split", ["x"], ["y", "z"], {"axis": 1, "split": [3, 1]}),),
        ("Slice", "Slice"),
        {"x": X4},
        ("y", "z"),
        opset=11,
    ),
    Case(
        "Split even",
        (("Split", ["x"], ["y", "z"], {"axis": 1}),),
        ("Slice", "Slice"),
        {"x": X4},
        ("y", "z"),
    ),
    one(
        "Slice",
        "Slice",
        ["x", ints(1, -9), ints(3, 2**40), ints(1, 3), ints(1, 2)],
        ["Slice"],
    ),
    one("Slice 9", "Slice", ["x"], ["Slice"], opset=9, starts=[2], ends=[-1], axes=[2]),
    one("Gather", "Gather", ["x", ints(2, 4, 6)], ["Slice"], axis=3),
    one("Gather of channels", "Gather", ["x", ints(2, 0, -2, 1)], ["Conv"], axis=1),
    one("Pad", "Pad", ["x", ints(0, 0, 1, 2, 0, 0, 3, 0), number(0.5)], ["Pad"]),
    one("Pad channels", "Pad", ["x", ints(0, 1, 0, 0, 0, 2, 0, 0)], ["Pad"]),
    one("Pad reflect", "Pad", ["x", ints(0, 0, 4, 2, 0, 0, 3, 5)], ["Pad"], mode="reflect"),
    one("Pad edge", "Pad", ["x", ints(0, 0, 4, 2, 0, 0, 3, 5)], ["Pad"], mode="edge"),
    one("Pad crops", "Pad", ["x", ints(0, 0, -1, 2, 0, 0, 3, -2)], ["Slice", "Pad"]),
    one("Pad of axes", "Pad", ["x", ints(1, 2), number(1), ints(-1)], ["Pad"], opset=18),
    one("Pad 2", "Pad", ["x"], ["Pad"], opset=2, pads=[0, 0, 1, 2, 0, 0, 3, 0], value=0.25),
    chain(
        "Pad into Conv",
        ("Conv",),
        ("Pad", ["x", ints(0, 0, 1, 2, 0, 0, 3, 0)], "p", {}),
        ("Conv", ["p", w(5, 3, 3, 3)], "y", {"pads": [1, 0, 0, 1]}),
    ),
    chain(
        "Pad into AveragePool",
        ("AveragePool",),
        ("Pad", ["x", ints(0, 0, 1, 1, 0, 0, 1, 1)], "p", {}),
        ("AveragePool", ["p"], "y", {"kernel_shape": [3, 3]}),
    ),
    chain(
        "Pad into MaxPool of what is never negative",
        ("Unary", "MaxPool"),
        ("Relu", ["x"], "r", {}),
        ("Pad", ["r", ints(0, 0, 1, 1, 0, 0, 1, 1)], "p", {}),
        ("MaxPool", ["p"], "y", {"kernel_shape": [3, 3], "strides": [2, 2]}),
    ),
    chain(
        "Pad not into MaxPool",
        ("Pad", "MaxPool"),
        ("Pad", ["x", ints(0, 0, 1, 1, 0, 0, 1, 1)], "p", {}),
        ("MaxPool", ["p"], "y", {"kernel_shape": [3, 3], "strides": [2, 2]}),
    ),
    one("DepthToSpace DCR", "DepthToSpace", ["x"], ["DepthToSpace"], X8, blocksize=2),
    one("DepthToSpace CRD", "DepthToSpace", ["x"], ["DepthToSpace"], X8, blocksize=2, mode="CRD"),
    one("SpaceToDepth", "SpaceToDepth", ["x"], ["SpaceToDepth"], (1, 3, 4, 6), blocksize=2),
    *(
        chain(
            f"spelt {name}",
            ("Unary", name.split()[0]),
            ("Relu", ["x"], "a", {}),
            ("Reshape", ["a", ints(*inner)], "r", {}),
            ("Transpose", ["r"], "t", {"perm": perm}),
            ("Reshape", ["t", ints(*after)], "y", {}),
            shape=before,
        )
        for name, before, inner, perm, after in (
            ("DepthToSpace DCR", X8, (1, 2, 2, 2, 5, 7), (0, 3, 4, 1, 5, 2), (1, 2, 10, 14)),
            ("DepthToSpace CRD", X8, (1, 2, 2, 2, 5, 7), (0, 1, 4, 2, 5, 3), (1, 2, 10, 14)),
            (
                "SpaceToDepth DCR",
                (1, 3, 4, 6),
                (1, 3, 2, 2, 3, 2),
                (0, 3, 5, 1, 2, 4),
                (1, 12, 2, 3),
            ),
            (
                "SpaceToDepth CRD",
                (1, 3, 4, 6),
                (1, 3, 2, 2, 3, 2),
                (0, 1, 3, 5, 2, 4),
                (1, 12, 2, 3),
            ),
        )
    ),
    chain(
        "channel shuffle",
        ("Conv",),
        ("Reshape", ["x", ints(1, 2, 4, 5, 7)], "r", {}),
        ("Transpose", ["r"], "t", {"perm": [0, 2, 1, 3, 4]}),
        ("Reshape", ["t", ints(1, 8, 5, 7)], "y", {}),
        shape=X8,
    ),
    chain(
        "Focus",
        ("SpaceToDepth", "Conv"),
        *(
            (
                "Slice",
                ["x", ints(row, col), ints(99, 99), ints(2, 3), ints(2, 2)],
                f"s{row}{col}",
                {},
            )
            for row in (0, 1)
            for col in (0, 1)
        ),
        ("Concat", ["s00", "s10", "s01", "s11"], "f", {"axis": 1}),
        ("Conv", ["f", w(5, 12, 3, 3)], "y", {"pads": [1, 1, 1, 1]}),
        shape=(1, 3, 8, 6),
    ),
    one("Identity", "Identity", ["x"], ["Slice"]),
    chain("Dropout", ("Unary",), ("Dropout", ["x"], "d", {}), ("Relu", ["d"], "y", {})),
    chain(
        "tail to rows",
        ("Conv",),
        ("Conv", ["x", w(5, 3, 1, 1)], "c", {}),
        ("Reshape", ["c", ints(1, 5, -1)], "r", {}),
        ("Transpose", ["r"], "y", {"perm": [0, 2, 1]}),
    ),
    chain(
        "channels last throughout",
        ("Conv", "MaxPool"),
        ("Transpose", ["x"], "t", {"perm": [0, 3, 1, 2]}),
        ("Conv", ["t", w(5, 3, 3, 3)], "c", {"pads": [1, 1, 1, 1]}),
        ("Transpose", ["c"], "u", {"perm": [0, 2, 3, 1]}),
        ("Add", ["u", w(5)], "b", {}),
        ("Mul", ["b", w(1, 1, 1, 5)], "m", {}),
        ("LeakyRelu", ["m"], "l", {"alpha": 0.2}),
        ("Transpose", ["l"], "v", {"perm": [0, 3, 1, 2]}),
        ("MaxPool", ["v"], "p", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Transpose", ["p"], "y", {"perm": [0, 2, 3, 1]}),
        shape=(1, 9, 11, 3),
    ),
    *(
        chain(
            f"{step[0]} of channels last {dict(step[3])}",
            ops,
            ("Transpose", ["x"], "n", {"perm": [0, 3, 1, 2]}),
            ("MaxPool", ["n"], "m", {"kernel_shape": [2, 2]}),
            ("Transpose", ["m"], "t", {"perm": [0, 2, 3, 1]}),
            step,
            shape=(1, 10, 12, 3),
        )
        for step, ops in (
            (("Pad", ["t", ints(0, 1, 2, 0, 0, 3, 0, 0)], "y", {}), ("MaxPool", "Pad")),
            (
                ("Slice", ["t", ints(1), ints(9), ints(2), ints(2)], "y", {}),
                ("MaxPool", "Slice"),
            ),
            (("Concat", ["t", "t"], "y", {"axis": 3}), ("MaxPool", "Concat")),
            (("Concat", ["t", "t"], "y", {"axis": 1}), ("MaxPool", "Concat")),
            (("ReduceMean", ["t"], "y", {"axes": [1, 2]}), ("MaxPool", "GlobalPool")),
            (("ReduceMean", ["t"], "y", {"axes": [3]}), ("MaxPool", "Conv")),
            (("MatMul", ["t", w(3, 5)], "y", {}), ("MaxPool", "Conv")),
            (("PRelu", ["t", w(3)], "y", {}), ("MaxPool", "Unary")),
            (
                ("Resize", ["t", "", np.array([1, 2, 3, 1], np.float32)], "y", {"mode": "linear"}),
                ("MaxPool", "Resize"),
            ),
        )
    ),
)

COORDINATES = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")
ROUNDING = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


def resize(name: str, scales: Sequence[float], opset: int = 13, **attrs: Any) -> Case:
    inputs = ["x", np.zeros(0, np.float32), np.array(scales, np.float32)]
    return one(f"Resize {name} {scales[2:]}", "Resize", inputs, ["Resize"], opset=opset, **attrs)


RESIZES = (
    *(
        resize(
            f"nearest {coordinates} {rounding}",
            scales,
            mode="nearest",
            coordinate_transformation_mode=coordinates,
            nearest_mode=rounding,
        )
        for coordinates in (*COORDINATES, "tf_half_pixel_for_nn")
        for rounding in ROUNDING
        for scales in ((1, 1, 2, 2), (1, 1, 0.5, 1.7))
        if not (coordinates == "tf_half_pixel_for_nn" and rounding != "floor")
    ),
    *(
        resize(
            f"linear {coordinates}",
            scales,
            mode="linear",
            coordinate_transformation_mode=coordinates,
        )
        for coordinates in COORDINATES
        for scales in ((1, 1, 2, 2), (1, 1, 0.6, 3), (1, 1, 1, 2))
    ),
    resize(
        "linear half_pixel_symmetric",
        (1, 1, 1.35, 0.7),
        opset=19,
        mode="linear",
        coordinate_transformation_mode="half_pixel_symmetric",
    ),
    one(
        "Resize to sizes",
        "Resize",
        ["x", "", "", ints(1, 3, 13, 22)],
        ["Resize"],
        mode="linear",
        coordinate_transformation_mode="align_corners",
    ),
    *(
        one(
            f"Resize to one position {coordinates}",
            "Resize",
            ["x", "", "", ints(1, 3, 1, 1)],
            ["Resize"],
            mode="linear",
            coordinate_transformation_mode=coordinates,
        )
        for coordinates in COORDINATES
    ),
    one(
        "Resize some axes",
        "Resize",
        ["x", "", np.array([2, 2], np.float32)],
        ["Resize"],
        opset=18,
        mode="nearest",
        axes=[2, 3],
    ),
    *(
        one(
            f"Resize 10 {mode} {scale}",
            "Resize",
            ["x", np.array([1, 1, scale, 2], np.float32)],
            ["Resize"],
            opset=10,
            mode=mode,
        )
        for mode in ("nearest", "linear")
        for scale in (2, 0.6)
    ),
    *(
        one(
            f"Upsample 9 {mode}",
            "Upsample",
            ["x", np.array([1, 1, 2, 3], np.float32)],
            ["Resize"],
            opset=9,
            mode=mode,
        )
        for mode in ("nearest", "linear")
    ),
    one(
        "Upsample 7",
        "Upsample",
        ["x"],
        ["Resize"],
        opset=7,
        mode="nearest",
        scales=[1.0, 1.0, 2.0, 2.0],
    ),
    one(
        "Resize to the same size",
        "Resize",
        ["x", "", np.ones(4, np.float32)],
        ["Resize"],
        mode="nearest",
    ),
)

TOKENS = (
    one(
        "LayerNormalization of channels last",
        "LayerNormalization",
        ["x", w(11, shift=1.0), w(11)],
        ["LayerNorm"],
        (1, 5, 7, 11),
    ),
    chain(
        "LayerNormalization of tokens",
        ("LayerNorm",),
        ("Reshape", ["x", ints(1, 3, 99)], "r", {}),
        ("Transpose", ["r"], "t", {"perm": [0, 2, 1]}),
        ("LayerNormalization", ["t", w(3, shift=1.0), w(3)], "y", {"epsilon": 1e-3}),
    ),
    one("ReduceMax of channels", "ReduceMax", ["x"], ["ChannelMax"], axes=[1], keepdims=0),
    chain(
        "ArgMax of channels, as numbers",
        ("ChannelMax", "Unary"),
        ("ArgMax", ["x"], "a", {"axis": 1}),
        ("Cast", ["a"], "f", {"to": onnx.TensorProto.FLOAT}),
        ("Sigmoid", ["f"], "y", {}),
    ),
    chain(
        "MatMul of tokens",
        ("Conv",),
        ("Reshape", ["x", ints(1, 3, 99)], "r", {}),
        ("Transpose", ["r"], "t", {"perm": [0, 2, 1]}),
        ("MatMul", ["t", w(3, 5)], "m", {}),
        ("Add", ["m", w(5)], "y", {}),
    ),
    chain(
        "MatMul from the left",
        ("Conv",),
        ("Reshape", ["x", ints(1, 3, 99)], "r", {}),
        ("MatMul", [w(5, 3), "r"], "y", {}),
    ),
    chain(
        "tokens to a picture of another size",
        ("Regrid", "MaxPool"),
        ("Reshape", ["x", ints(1, 3, 99)], "r", {}),
        ("Reshape", ["r", ints(1, 3, 3, 33)], "t", {}),
        ("MaxPool", ["t"], "y", {"kernel_shape": [2, 2]}),
    ),
    chain(
        "a class token and back",
        ("Regrid", "Pad", "Binary", "Slice"),
        ("Reshape", ["x", ints(1, 3, 99)], "r", {}),
        ("Transpose", ["r"], "t", {"perm": [0, 2, 1]}),
        ("Concat", [w(1, 1, 3), "t"], "c", {"axis": 1}),
        ("Sigmoid", ["c"], "s", {}),
        ("Slice", ["s", ints(1), ints(90), ints(1), ints(2)], "y", {}),
    ),
    chain(
        "Softmax over bins",
        ("Softmax", "Conv"),
        ("Reshape", ["x", ints(1, 2, 4, 99)], "r", {}),
        ("Transpose", ["r"], "t", {"perm": [0, 2, 1, 3]}),
        ("Softmax", ["t"], "s", {"axis": 1}),
        ("Conv", ["s", w(1, 4, 1, 1)], "y", {}),
        shape=(1, 8, 9, 11),
    ),
    chain(
        "com.microsoft.MultiHeadAttention",
        ("Conv", "Conv", "Conv", "Attention"),
        ("Reshape", ["x", ints(1, 8, 35)], "r", {}),
        ("Transpose", ["r"], "t", {"perm": [0, 2, 1]}),
        ("MatMul", ["t", w(8, 6)], "q", {}),
        ("MatMul", ["t", w(8, 6, shift=0.1)], "k", {}),
        ("MatMul", ["t", w(8, 6, shift=0.2)], "v", {}),
        (
            "MultiHeadAttention",
            ["q", "k", "v", w(18)],
            "y",
            {"num_heads": 2, "domain": "com.microsoft"},
        ),
        shape=(1, 8, 5, 7),
    ),
    chain(
        "com.microsoft.Attention",
        ("Conv", "Conv", "Conv", "Attention", "LayerNorm"),
        ("Reshape", ["x", ints(1, 8, 35)], "r", {}),
        ("Transpose", ["r"], "t", {"perm": [0, 2, 1]}),
        (
            "Attention",
            ["t", w(8, 18), w(18)],
            "a",
            {"num_heads": 3, "domain": "com.microsoft"},
        ),
        ("LayerNormalization", ["a", w(6, shift=1.0), w(6)], "y", {}),
        shape=(1, 8, 5, 7),
    ),
    chain(
        "Attention of tokens",
        ("Attention",),
        ("Reshape", ["x", ints(1, 8, 35)], "r", {}),
        ("Transpose", ["r"], "t", {"perm": [0, 2, 1]}),
        ("Attention", ["t", "t", "t"], "y", {"q_num_heads": 2, "kv_num_heads": 2}),
        shape=(1, 8, 5, 7),
        opset=23,
    ),
    chain(
        "Attention by heads",
        ("Attention",),
        ("Reshape", ["x", ints(1, 2, 4, 35)], "r", {}),
        ("Transpose", ["r"], "t", {"perm": [0, 1, 3, 2]}),
        ("Attention", ["t", "t", "t"], "a", {"scale": 0.3}),
        ("Transpose", ["a"], "b", {"perm": [0, 2, 1, 3]}),
        ("Reshape", ["b", ints(1, 35, 8)], "y", {}),
        shape=(1, 8, 5, 7),
        opset=23,
    ),
    chain(
        "attention",
        ("Slice", "Slice", "Slice", "Attention"),
        ("Reshape", ["x", ints(1, 3, 2, 4, 35)], "r", {}),
        ("Transpose", ["r"], "t", {"perm": [1, 0, 2, 4, 3]}),
        ("Gather", ["t", np.array(0, np.int64)], "q", {"axis": 0}),
        ("Gather", ["t", np.array(1, np.int64)], "k", {"axis": 0}),
        ("Gather", ["t", np.array(2, np.int64)], "v", {"axis": 0}),
        ("Transpose", ["k"], "kt", {"perm": [0, 1, 3, 2]}),
        ("MatMul", ["q", "kt"], "scores", {}),
        ("Div", ["scores", number(2.0)], "scaled", {}),
        ("Softmax", ["scaled"], "shares", {"axis": -1}),
        ("MatMul", ["shares", "v"], "o", {}),
        ("Transpose", ["o"], "ot", {"perm": [0, 2, 1, 3]}),
        ("Reshape", ["ot", ints(1, 35, 8)], "y", {}),
        shape=(1, 24, 5, 7),
    ),
)

PEAKS: tuple[Step, ...] = (
    ("Sigmoid", ["x"], "h", {}),
    ("MaxPool", ["h"], "p", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    ("Equal", ["h", "p"], "e", {}),
)
"""Where a map is as large as its largest neighbour, as in CenterNet."""
MASKS = (
    chain(
        "Peaks by Cast and Mul",
        ("Unary", "MaxPool", "Binary", "Affine", "Binary"),
        *PEAKS,
        ("Cast", ["e"], "m", {"to": onnx.TensorProto.FLOAT}),
        ("Mul", ["h", "m"], "y", {}),
    ),
    chain(
        "Peaks by Where",
        ("Unary", "MaxPool", "Binary", "Affine", "Binary"),
        *PEAKS,
        ("Where", ["e", "h", number(0)], "y", {}),
    ),
    chain(
        "All but the peaks",
        ("Unary", "MaxPool", "Binary", "Affine", "Affine", "Binary"),
        *PEAKS,
        ("Where", ["e", number(0), "h"], "y", {}),
    ),
)

CASES = (*MASKS, *TOKENS, *CONVS, *POOLS, *ACTIVATIONS, *SPELLED, *ARITHMETIC, *MOVES, *RESIZES)
