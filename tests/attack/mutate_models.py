"""Small ONNX networks, and what a seed breaks in them: graph, weights or bytes."""

import contextlib
import random
from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
Rng = random.Random
EXTREMES = (0, -1, 1, 2, 3, 7, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 62), -(1 << 31))
NAMES = ("", "x", "y", "\x1b[31mred\x1b[0m", "a" * 5000, "名前", "../../etc", "w0")


class Net:
    """A model under construction: every method adds one node and returns its output."""

    def __init__(self, rng: Rng, height: int | str = 16, width: int | str = 24) -> None:
        self.draw = np.random.default_rng(rng.randrange(1 << 30))
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.input = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, height, width])

    def constant(self, values: object, dtype: type = np.float32) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def add(self, op: str, *inputs: str, **attributes: object) -> str:
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def conv(self, source: str, channels: int, into: int, kernel: int = 3, stride: int = 1) -> str:
        weight = self.constant(self.draw.normal(0, 0.3, (into, channels, kernel, kernel)))
        bias = self.constant(self.draw.normal(0, 0.1, into))
        pad = kernel // 2
        return self.add(
            "Conv", source, weight, bias, pads=[pad] * 4, strides=[stride, stride],
            kernel_shape=[kernel, kernel],
        )  # fmt: skip

    def model(self, *outputs: str) -> onnx.ModelProto:
        infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "net", [self.input], infos, self.weights)
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def residual(rng: Rng) -> onnx.ModelProto:
    net = Net(rng)
    a = net.add("Relu", net.conv("x", 3, 8, stride=2))
    b = net.add("Sigmoid", net.conv(a, 8, 8))
    c = net.add("Add", a, net.add("Mul", b, a))
    sizes = net.constant([1.0, 1.0, 2.0, 2.0])
    up = net.add("Resize", c, "", sizes, mode="nearest")
    joined = net.add("Concat", up, net.conv("x", 3, 4, 1), axis=1)
    return net.model(net.conv(joined, 12, 2))


def classifier(rng: Rng) -> onnx.ModelProto:
    net = Net(rng, "h", "w")
    a = net.add("LeakyRelu", net.conv("x", 3, 8, stride=2), alpha=0.1)
    pooled = net.add("MaxPool", a, kernel_shape=[2, 2], strides=[2, 2])
    vector = net.add("Flatten", net.add("GlobalAveragePool", pooled), axis=1)
    matrix = net.constant(net.draw.normal(0, 0.3, (8, 5)))
    return net.model(net.add("Softmax", net.add("Gemm", vector, matrix), axis=1))


def attention(rng: Rng) -> onnx.ModelProto:
    net = Net(rng)
    a = net.conv("x", 3, 8, stride=4)
    shape = net.constant([1, 8, -1], np.int64)
    tokens = net.add("Transpose", net.add("Reshape", a, shape), perm=[0, 2, 1])
    scores = net.add("MatMul", tokens, net.add("Transpose", tokens, perm=[0, 2, 1]))
    mixed = net.add("MatMul", net.add("Softmax", scores, axis=-1), tokens)
    back = net.constant([1, 8, 4, 6], np.int64)
    picture = net.add("Reshape", net.add("Transpose", mixed, perm=[0, 2, 1]), back)
    return net.model(net.conv(net.add("Add", picture, a), 8, 3))


def upscaler(rng: Rng) -> onnx.ModelProto:
    net = Net(rng)
    slope = net.constant(net.draw.normal(0.2, 0.05, (12, 1, 1)))
    a = net.add("PRelu", net.conv("x", 3, 12), slope)
    shuffled = net.add("DepthToSpace", a, blocksize=2, mode="CRD")
    weight = net.constant(net.draw.normal(0, 0.3, (3, 2, 4, 4)))
    up = net.add("ConvTranspose", "x", weight, strides=[2, 2], pads=[1, 1, 1, 1])
    low, high = net.constant(0.0), net.constant(1.0)
    return net.model(net.add("Clip", shuffled, low, high), up)


def cropped(rng: Rng) -> onnx.ModelProto:
    net = Net(rng)
    pads = net.constant([0, 0, 1, 2, 0, 0, 3, 0], np.int64)
    padded = net.add("Pad", "x", pads, net.constant(0.5))
    starts, ends = net.constant([1, 0], np.int64), net.constant([12, 20], np.int64)
    axes, steps = net.constant([2, 3], np.int64), net.constant([1, 2], np.int64)
    part = net.add("Slice", padded, starts, ends, axes, steps)
    depthwise = net.constant(net.draw.normal(0, 0.3, (3, 1, 3, 3)))
    a = net.add("Conv", part, depthwise, group=3, pads=[1, 1, 1, 1])
    mean = net.add("ReduceMean", a, axes=[2, 3], keepdims=1)
    return net.model(net.add("Mul", a, net.add("HardSigmoid", mean)))


SEEDS: tuple[Callable[[Rng], onnx.ModelProto], ...] = (
    residual, classifier, attention, upscaler, cropped,
)  # fmt: skip
OPERATORS = (
    "Conv", "Relu", "Add", "Mul", "Concat", "Resize", "MaxPool", "AveragePool", "Softmax", "Gemm",
    "MatMul", "Transpose", "Reshape", "Slice", "Pad", "GlobalAveragePool", "Identity", "Range",
    "Expand", "ConstantOfShape", "Tile", "Gather", "NonZero", "TopK", "Where", "Cast", "Loop", "If",
    "Scan", "NoSuchOperator", "BatchNormalization", "InstanceNormalization", "Split", "Squeeze",
)  # fmt: skip


# --- what can be broken: model -> None, in place -------------------------------------------------


def shuffle_nodes(model: onnx.ModelProto, rng: Rng) -> None:
    nodes = list(model.graph.node)
    rng.shuffle(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def drop_node(model: onnx.ModelProto, rng: Rng) -> None:
    del model.graph.node[rng.randrange(len(model.graph.node))]


def repeat_node(model: onnx.ModelProto, rng: Rng) -> None:
    model.graph.node.append(rng.choice(model.graph.node))


def rewire(model: onnx.ModelProto, rng: Rng) -> None:
    """An input becomes another tensor: of another shape, of a later node, or of none."""
    node = rng.choice(model.graph.node)
    tensors = [name for each in model.graph.node for name in each.output]
    tensors += [weight.name for weight in model.graph.initializer] + ["x", "", "nowhere"]
    if node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(tensors)


def rename(model: onnx.ModelProto, rng: Rng) -> None:
    node = rng.choice(model.graph.node)
    names = node.output if rng.random() < 0.5 else node.input
    if names:
        names[rng.randrange(len(names))] = rng.choice(NAMES)
    node.name = rng.choice(NAMES)


def other_operator(model: onnx.ModelProto, rng: Rng) -> None:
    node = rng.choice(model.graph.node)
    node.op_type = rng.choice(OPERATORS)
    if rng.random() < 0.2:
        node.domain = rng.choice(("com.microsoft", "ai.onnx.ml", "nobody"))


def other_attribute(model: onnx.ModelProto, rng: Rng) -> None:
    nodes = [node for node in model.graph.node if node.attribute]
    if not nodes:
        return
    attribute = rng.choice(rng.choice(nodes).attribute)
    if attribute.ints and rng.random() < 0.7:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(EXTREMES)
    elif attribute.ints:
        del attribute.ints[rng.randrange(len(attribute.ints))]
    elif attribute.type == onnx.AttributeProto.INT:
        attribute.i = rng.choice(EXTREMES)
    elif attribute.type == onnx.AttributeProto.FLOAT:
        attribute.f = rng.choice((float("nan"), float("inf"), -1e30, 0.0))
    else:
        attribute.s = rng.choice((b"", b"nothing", b"\xff\xfe"))


def other_weight(model: onnx.ModelProto, rng: Rng) -> None:
    if not model.graph.initializer:
        return
    weight = rng.choice(model.graph.initializer)
    kind = rng.randrange(5)
    if kind == 0 and weight.dims:
        weight.dims[rng.randrange(len(weight.dims))] = rng.choice(EXTREMES)
    elif kind == 1:
        weight.raw_data = weight.raw_data[: rng.randrange(len(weight.raw_data) + 1)]
    elif kind == 2:
        weight.data_type = rng.choice(tuple(range(18)))
    elif kind == 3 and weight.data_type == TensorProto.FLOAT:
        values = numpy_helper.to_array(weight).copy()
        if values.size:
            worst = rng.choice((float("nan"), float("inf"), 3e38, 1e-45))
            values.flat[rng.randrange(values.size)] = worst
        weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    elif weight.data_type == TensorProto.INT64:
        values = numpy_helper.to_array(weight).copy()
        if values.size:
            values.flat[rng.randrange(values.size)] = rng.choice(EXTREMES)
        weight.CopyFrom(numpy_helper.from_array(values, weight.name))


def other_input(model: onnx.ModelProto, rng: Rng) -> None:
    if not model.graph.input:
        return
    kind = rng.choice(model.graph.input).type.tensor_type
    if kind.shape.dim and rng.random() < 0.7:
        dim = rng.choice(kind.shape.dim)
        if rng.random() < 0.5:
            dim.dim_value = rng.choice(EXTREMES)
        else:
            dim.dim_param = rng.choice(("n", "", "x"))
    elif rng.random() < 0.5:
        kind.elem_type = rng.choice((0, 1, 2, 3, 7, 8, 9, 10, 11, 16, 99))
    else:
        del kind.shape.dim[:]


def other_output(model: onnx.ModelProto, rng: Rng) -> None:
    if rng.random() < 0.3:
        del model.graph.output[:]
        return
    tensors = [name for node in model.graph.node for name in node.output] + ["x", "nowhere"]
    rng.choice(model.graph.output).name = rng.choice(tensors)


def other_version(model: onnx.ModelProto, rng: Rng) -> None:
    if rng.random() < 0.5:
        model.ir_version = rng.choice((0, 3, 7, 99, 1 << 40))
    elif model.opset_import:
        model.opset_import[0].version = rng.choice((0, 1, 6, 9, 11, 13, 21, 999))


def constant_bomb(model: onnx.ModelProto, rng: Rng) -> None:
    """A few bytes of file that a constant folder would turn into gigabytes."""
    graph = model.graph
    huge = rng.choice((1 << 31, 1 << 33, 3_000_000_000))
    size = numpy_helper.from_array(np.array([huge], np.int64), "bomb_size")
    graph.initializer.append(size)
    kind = rng.randrange(3)
    if kind == 0:
        node = helper.make_node("ConstantOfShape", ["bomb_size"], ["bomb"])
    elif kind == 1:
        graph.initializer.append(numpy_helper.from_array(np.array([1.0], np.float32), "bomb_one"))
        node = helper.make_node("Expand", ["bomb_one", "bomb_size"], ["bomb"])
    else:
        for name, value in (("bomb_from", 0), ("bomb_to", huge), ("bomb_step", 1)):
            graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
        node = helper.make_node("Range", ["bomb_from", "bomb_to", "bomb_step"], ["bomb_index"])
        graph.node.insert(0, node)
        node = helper.make_node("Cast", ["bomb_index"], ["bomb"], to=TensorProto.FLOAT)
    graph.node.insert(min(1, len(graph.node)) if kind == 2 else 0, node)
    most = helper.make_node("ReduceMax", ["bomb"], ["bomb_most"], keepdims=0)
    if rng.random() < 0.5:
        graph.node.append(most)
    else:
        into_branches(graph, [*([graph.node[0]] if kind == 2 else []), node, most], "bomb_most")
    if graph.output:
        last = graph.output[0].name
        graph.node.append(helper.make_node("Add", [last, "bomb_most"], ["bombed"]))
        graph.output[0].name = "bombed"


def into_branches(graph: onnx.GraphProto, nodes: list[onnx.NodeProto], output: str) -> None:
    """Move nodes into a branch of an If node, which a constant chooses."""
    end = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    zero = helper.make_tensor("bomb_zero", TensorProto.FLOAT, [], [0.0])
    calm = helper.make_graph(
        [helper.make_node("Constant", [], [output], value=zero)], "calm", [], [end]
    )
    branch = helper.make_graph(nodes, "branch", [], [end])
    for node in nodes:
        if node in graph.node:
            graph.node.remove(node)
    graph.initializer.append(numpy_helper.from_array(np.array(False), "bomb_choice"))
    graph.node.append(
        helper.make_node("If", ["bomb_choice"], [output], then_branch=branch, else_branch=calm)
    )


BREAKS: tuple[Callable[[onnx.ModelProto, Rng], None], ...] = (
    shuffle_nodes, drop_node, repeat_node, rewire, rewire, rename, other_operator, other_attribute,
    other_attribute, other_weight, other_weight, other_input, other_output, other_version,
    constant_bomb,
)  # fmt: skip


def broken_bytes(content: bytes, rng: Rng) -> bytes:
    """Bytes flipped, cut off, repeated or put in."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        if not data:
            break
        at = rng.randrange(len(data))
        kind = rng.randrange(5)
        if kind <= 1:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del data[at : at + rng.choice((1, 4, 100))]
        elif kind == 3:
            data[at:at] = data[at : at + rng.choice((1, 16, 400))]
        else:
            data[at:at] = rng.randbytes(rng.choice((1, 8)))
    if rng.random() < 0.2:
        del data[rng.randrange(len(data) + 1) :]
    return bytes(data)


def mutated(seed: int) -> bytes:
    """The model of a seed. One in ten is left whole, so that what runs is compared as well."""
    rng = random.Random(seed)
    model = rng.choice(SEEDS)(rng)
    kind = rng.random()
    if kind < 0.1:
        return bytes(model.SerializeToString())
    if kind < 0.8:
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            with contextlib.suppress(IndexError):  # nothing is left to choose from
                rng.choice(BREAKS)(model, rng)
        return bytes(model.SerializeToString())
    return broken_bytes(model.SerializeToString(), rng)
