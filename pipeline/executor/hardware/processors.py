"""Processors by name: what this machine has, and what a text like `cpu:0-3` means on it.

cpu:0 · cpu:0-3 · cpu:0,2     cores        auto       chosen by the planner or the system
openvino:CPU · openvino:GPU   a device of OpenVINO, for the model only
cuda:0 · tensorrt:0 · …       an execution provider of ONNX Runtime, for the model only
"""

import re
from dataclasses import dataclass
from typing import Any

from stillframe.cores import cpu_quota
from stillframe.errors import UsageError
from stillframe.pipeline.executor.hardware.topology import (
    Core,
    cpu_list,
    parse_cpu_list,
    read_cores,
)

# Kind -> ONNX Runtime's execution provider.
PROVIDERS: dict[str, str] = {
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "dml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}
_CORES = re.compile(r"cpu:(\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*)")
_DEVICE = re.compile(r"([a-z]+):([A-Za-z0-9.]+)")


@dataclass(frozen=True, slots=True)
class Processor:
    """A set of cores (kind "cpu"), a device for the model, or "auto"."""

    kind: str = "auto"
    cores: frozenset[int] = frozenset()
    device: str = ""
    """The device's name in its runtime, such as "0" or "GPU"."""

    def __str__(self) -> str:
        if self.kind == "cpu":
            return f"cpu:{cpu_list(self.cores)}"
        return f"{self.kind}:{self.device}" if self.device else self.kind

    @classmethod
    def on(cls, *cores: int) -> "Processor":
        return cls("cpu", frozenset(cores))


AUTO = Processor()


@dataclass(frozen=True, slots=True)
class Machine:
    """The processors of a machine."""

    cores: tuple[Core, ...]
    """All online cores."""
    quota: float | None = None
    """CPU time granted, in cores; None: no limit."""
    providers: tuple[str, ...] = ()
    """ONNX Runtime's execution providers."""
    openvino: tuple[str, ...] = ()
    """OpenVINO's devices; empty if it is not installed."""

    @classmethod
    def here(cls) -> "Machine":
        """This machine, now."""
        return cls(read_cores(), cpu_quota(), _providers(), tuple(openvino_devices()))

    @property
    def allowed(self) -> tuple[int, ...]:
        """The cores that this process may use."""
        return tuple(core.number for core in self.cores if core.allowed)

    @property
    def capacity(self) -> float:
        """The CPU time that this process may use, in cores."""
        cores = float(len(self.allowed))
        return cores if self.quota is None else min(cores, self.quota)

    @property
    def names(self) -> list[str]:
        """Every text that `parse` accepts here."""
        openvino = [f"openvino:{device}" for device in self.openvino]
        return [f"cpu:{cpu_list(self.allowed)}", *openvino, *self.devices, "auto"]

    @property
    def devices(self) -> list[str]:
        """The first of each kind of device that ONNX Runtime can use here."""
        return [f"{kind}:0" for kind, name in PROVIDERS.items() if name in self.providers]

    def parse(self, text: str) -> Processor:
        """The processor that a text names. Raises UsageError, which lists those there are."""
        if text == "auto":
            return AUTO
        if match := _CORES.fullmatch(text):
            try:
                cores = parse_cpu_list(match[1])
            except ValueError as error:
                raise UsageError(f"processor {text!r}: {error}") from None
            missing = cores - set(self.allowed)
            if missing:
                raise UsageError(
                    f"processor {text!r}: core {cpu_list(missing)} is not there or not allowed to"
                    f" this process; there is {self._names}"
                )
            return Processor("cpu", cores)
        match = _DEVICE.fullmatch(text)
        if match and match[1] == "openvino" and match[2] in self.openvino:
            return Processor("openvino", device=match[2])
        if match and match[2].isdecimal() and PROVIDERS.get(match[1]) in self.providers:
            return Processor(match[1], device=match[2])
        raise UsageError(f"processor {text!r}: not here; there is {self._names}")

    @property
    def _names(self) -> str:
        return ", ".join(self.names)


def openvino_devices() -> list[str]:
    """OpenVINO's devices; empty if it is not installed."""
    try:
        import openvino
    except ImportError:
        return []
    core: Any = openvino.Core()
    return list(core.available_devices)


def _providers() -> tuple[str, ...]:
    import onnxruntime

    return tuple(onnxruntime.get_available_providers())
