"""Measures a processor's arithmetic and memory speed in a fraction of a second.

Arithmetic is a product of two float32 matrices in the runtime that would run a model there: ONNX
Runtime on a core or a provider, OpenVINO on its devices. The result is checked before it is timed.
"""

import io
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillframe.errors import UsageError, shortened
from stillframe.pipeline.executor.hardware.affinity import PinResult, pinned_thread
from stillframe.pipeline.executor.hardware.processors import PROVIDERS, Processor

SIDE = 384
COPIED_BYTES = 32 << 20
SECONDS = 0.1
MIN_RUNS = 3

Floats = NDArray[np.float32]
Product = Callable[[Floats], NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Capability:
    """The measured speed of one processor."""

    processor: Processor
    gflops: float
    """Of the matrix product, best run."""
    gigabytes_s: float = 0.0
    """Read plus written by one memory copy; 0 for devices that only run models."""
    note: str = ""
    """What differed from the request, such as a pin that was denied."""


def measure_processor(processor: Processor, seconds: float = SECONDS) -> Capability:
    """Measure one processor: a core or a device. Raises UsageError if it does not work."""
    outcome: list[Capability | Exception] = []

    def work() -> None:
        try:
            with pinned_thread(processor.cores) as pin:
                outcome.append(_measured(processor, seconds, pin))
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=work, name="stillframe-measure", daemon=True)
    thread.start()
    thread.join()
    if isinstance(outcome[0], Exception):
        reason = shortened(" ".join(str(outcome[0]).split()))
        raise UsageError(f"processor {processor}: it does not work: {reason}") from outcome[0]
    return outcome[0]


def _measured(processor: Processor, seconds: float, pin: PinResult) -> Capability:
    rng = np.random.default_rng(5)
    weights, values = (rng.random((SIDE, SIDE), np.float32) for _ in range(2))
    product = _product(processor, weights)
    if not np.allclose(product(values), values @ weights, rtol=1e-2):
        raise UsageError("it multiplies two matrices wrongly")
    best_s = _best_s(lambda: product(values), seconds)
    gflops = 2 * SIDE**3 / best_s / 1e9
    if processor.kind != "cpu":
        return Capability(processor, gflops)
    source, target = np.ones(COPIED_BYTES, np.uint8), np.zeros(COPIED_BYTES, np.uint8)
    copy_s = _best_s(lambda: np.copyto(target, source), seconds)
    return Capability(processor, gflops, 2 * COPIED_BYTES / copy_s / 1e9, pin.note)


def _best_s(work: Callable[[], object], seconds: float) -> float:
    """The shortest of as many runs as fit into the time, at least MIN_RUNS."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < MIN_RUNS or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _product(processor: Processor, weights: Floats) -> Product:
    model = _network(weights)
    if processor.kind == "openvino":
        return _openvino_product(model, processor.device)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    provider: Any = "CPUExecutionProvider"
    if processor.kind in PROVIDERS:
        provider = (PROVIDERS[processor.kind], {"device_id": processor.device})
    session = onnxruntime.InferenceSession(model, options, providers=[provider])
    return lambda values: np.asarray(session.run(None, {"x": values})[0])


def _openvino_product(model: bytes, device: str) -> Product:
    import openvino

    core: Any = openvino.Core()
    compiled: Any = core.compile_model(core.read_model(io.BytesIO(model)), device)
    request: Any = compiled.create_infer_request()
    return lambda values: np.asarray(request.infer({"x": values})[0])


def _network(weights: Floats) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    shape = [SIDE, SIDE]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weights, "w")],
    )
    opset = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString())
