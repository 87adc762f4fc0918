"""A model's fingerprint: the key under which profiles and measurements of it are stored."""

import hashlib
from pathlib import Path

from onnx import numpy_helper

from stillframe.reuse.frontend.onnx_loader import load_model

WEIGHTED = frozenset({"Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "Gemm", "MatMul"})


def fingerprint(source: str | Path | bytes) -> str:
    """SHA-256 (hexadecimal) of a model's weights; the same whatever input size it is fixed at.

    Covers the weights of convolutions and matrix products and the names of their outputs; a model
    without any is identified by all its constants. Raises ModelError.
    """
    model = load_model(source)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        for value in node.attribute:
            if node.op_type == "Constant" and value.name == "value":
                constants[node.output[0]] = value.t
    key = hashlib.sha256()
    weighted = [
        (node.output[0], [constants[name] for name in node.input if name in constants])
        for node in model.graph.node
        if node.op_type in WEIGHTED
    ]
    for name, tensors in weighted or [("", list(constants.values()))]:
        key.update(repr((name, [tuple(tensor.dims) for tensor in tensors])).encode())
        for tensor in tensors:
            key.update(numpy_helper.to_array(tensor).tobytes())
    return key.hexdigest()
