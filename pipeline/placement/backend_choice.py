"""How the network may run: whole on one of the backends with some threads, or in two segments."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from stillframe.cores import bounded_threads
from stillframe.pipeline.executor.hardware.affinity import pinned_thread
from stillframe.pipeline.inference.backends import Backend, OnnxRuntimeBackend, OpenvinoBackend
from stillframe.pipeline.inference.settings import MODES, Settings
from stillframe.pipeline.inference.split_backend import SplitBackend

Kind = Literal["reuse", "onnxruntime", "openvino", "segments"]


@dataclass(frozen=True, slots=True, order=True)
class BackendChoice:
    """A backend and its number of threads."""

    kind: Kind
    """A row of KINDS."""
    threads: int = 1
    """Share the work of each layer; of "segments": of each segment."""

    def __str__(self) -> str:
        if self.kind == "segments":
            return "two segments"
        return f"{self.kind} x{self.threads}"

    @property
    def incremental(self) -> bool:
        return self.kind in ("reuse", "segments")

    def make(self, path: Path, settings: Settings, cores: frozenset[int] = frozenset()) -> Backend:
        """The backend for a model's file. Threads that it starts stay on the cores; empty: on any.

        Raises ModelError and UncuttableError.
        """
        with pinned_thread(cores):
            return KINDS[self.kind](path, self.threads, settings)


KINDS: dict[Kind, Callable[[Path, int, Settings], Backend]] = {
    "reuse": lambda path, threads, settings: settings.make_reuse_backend(path, threads),
    "onnxruntime": lambda path, threads, settings: OnnxRuntimeBackend(path, threads),
    "openvino": lambda path, threads, settings: OpenvinoBackend(path, threads),
    "segments": lambda path, threads, settings: SplitBackend(
        path, 1, settings.share, settings.islands
    ),
}


def choices(settings: Settings, cores: int) -> list[BackendChoice]:
    """What may run the network with these settings on this many cores.

    Mode "exact" promises the bits of the reuse engine, whole or in segments. A profile is for the
    whole reuse engine. The other modes may take whichever backend is fastest.
    """
    fixed = bounded_threads(settings.threads)
    counts = [fixed] if fixed else sorted({1, max(1, cores // 2), cores})
    kinds: list[Kind] = []
    if MODES[settings.reuse].incremental:
        kinds.append("reuse")
    if settings.reuse != "exact" and settings.profile is None:
        kinds.append("onnxruntime")
        if find_spec("openvino") is not None:
            kinds.append("openvino")
    options = [BackendChoice(kind, threads) for kind in kinds for threads in counts]
    if MODES[settings.reuse].incremental and settings.profile is None and cores > 1:
        options.append(BackendChoice("segments"))
    return options
