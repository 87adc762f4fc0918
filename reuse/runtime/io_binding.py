"""IoBinding: feeds and outputs that are bound before a run, as onnxruntime has them.

Everything lies in main memory. Names are those of onnxruntime.IOBinding.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from stillframe.errors import UsageError

Array = NDArray[Any]


class IoBinding:
    """What a run reads and where it writes.

    inputs, outputs: names of the model. Raises UsageError for names that it does not have and
    for memory of another device than the CPU.
    """

    def __init__(self, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self._inputs = tuple(inputs)
        self._outputs = tuple(outputs)
        self.feeds: dict[str, Array] = {}
        self._targets: dict[str, Array | None] = {}  # bound outputs; None: wherever they are
        self._results: dict[str, Array] = {}

    @property
    def requested(self) -> list[str]:
        """The outputs that are bound; all if none is."""
        return list(self._targets) or list(self._outputs)

    def bind_cpu_input(self, name: str, arr_on_cpu: Any) -> None:
        self._check(name, self._inputs, "cpu")
        self.feeds[name] = np.asarray(arr_on_cpu)

    def bind_input(
        self,
        name: str,
        device_type: str,
        device_id: int,
        element_type: Any,
        shape: Sequence[int],
        buffer_ptr: int,
    ) -> None:
        """The memory is read during runs, not now."""
        self._check(name, self._inputs, device_type)
        self.feeds[name] = _array_at(buffer_ptr, element_type, shape)

    def bind_ortvalue_input(self, name: str, ortvalue: ort.OrtValue) -> None:
        self._check(name, self._inputs, ortvalue.device_name())
        self.feeds[name] = ortvalue.numpy()

    def bind_output(
        self,
        name: str,
        device_type: str = "cpu",
        device_id: int = 0,
        element_type: Any = None,
        shape: Sequence[int] | None = None,
        buffer_ptr: int | None = None,
    ) -> None:
        """buffer_ptr: where the output is written; None: an array of its own."""
        self._check(name, self._outputs, device_type)
        known = buffer_ptr is not None and shape is not None
        self._targets[name] = (
            _array_at(buffer_ptr or 0, element_type, shape or ()) if known else None
        )

    def bind_ortvalue_output(self, name: str, ortvalue: ort.OrtValue) -> None:
        self._check(name, self._outputs, ortvalue.device_name())
        values = ortvalue.numpy()
        self.bind_output(name, "cpu", 0, values.dtype, values.shape, ortvalue.data_ptr())

    def clear_binding_inputs(self) -> None:
        self.feeds.clear()

    def clear_binding_outputs(self) -> None:
        self._targets.clear()
        self._results.clear()

    def synchronize_inputs(self) -> None:
        """Nothing to wait for: all is in main memory."""

    def synchronize_outputs(self) -> None:
        """Nothing to wait for."""

    def receive(self, results: dict[str, Array]) -> None:
        """Take the outputs of a run. Raises UsageError where one does not fit its memory."""
        for name, values in results.items():
            target = self._targets.get(name)
            if target is None:
                continue
            if target.shape != values.shape or target.dtype != values.dtype:
                raise UsageError(
                    f"output {name!r}: expected memory for {values.dtype} of shape {values.shape}, "
                    f"got {target.dtype} of {target.shape}"
                )
            target[...] = values
        self._results = results

    def copy_outputs_to_cpu(self) -> list[Array]:
        return [self._results[name] for name in self.requested if name in self._results]

    def get_outputs(self) -> list[ort.OrtValue]:
        return [ort.OrtValue.ortvalue_from_numpy(each) for each in self.copy_outputs_to_cpu()]

    @staticmethod
    def _check(name: str, ports: Sequence[str], device: str) -> None:
        if name not in ports:
            raise UsageError(f"cannot bind {name!r}: the model has {list(ports)}")
        if device.lower() not in ("cpu", "cpu_pinned"):
            raise UsageError(f"cannot bind {name!r} on {device}: a ReuseSession reads main memory")


def _array_at(address: int, element_type: Any, shape: Sequence[int]) -> Array:
    """The array that lies at an address; whoever bound it keeps it alive."""
    dtype = np.dtype(element_type)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if not size:
        return np.zeros(tuple(shape), dtype)
    buffer = (ctypes.c_char * size).from_address(address)
    return np.frombuffer(buffer, dtype).reshape(tuple(shape))
