"""Backends: what runs the network. A backend takes a feed and returns the model's outputs.

`OnnxRuntimeBackend` and `OpenvinoBackend` compute every call from scratch. An incremental backend
keeps the values of its layers between calls and recomputes what `change` reaches. It must be fed
the gate's reference, the picture that those values stand for, and not the frame itself.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from stillframe.closing import Closing
from stillframe.cores import bounded_threads, core_count
from stillframe.endable_session import EndableSession
from stillframe.errors import ModelError, shortened
from stillframe.extras import install_command
from stillframe.native_calls import RunEndedError, native_call
from stillframe.pipeline.inference.state import FedBackState
from stillframe.pipeline.inference.worker_clock import WorkerClock
from stillframe.reuse.gate.change_map import ChangeMap

if TYPE_CHECKING:
    from stillframe.pipeline.inference.profile import TuningProfile
    from stillframe.reuse.plan.tolerance import Tolerance
    from stillframe.reuse.session import ReuseSession

Feed = Mapping[str, NDArray[Any]]
Device = tuple[str, str]
"""ONNX Runtime's name of a provider, and the number of its device."""


class Backend(Protocol):
    """Runs one compiled model. Not thread-safe."""

    incremental: bool
    """Whether layers keep their values between calls, so that `change` matters."""

    def run(self, feed: Feed, change: ChangeMap | None) -> list[NDArray[Any]]:
        """The model's outputs, in its order. change: what of the picture is new; None: everything.

        feed: the picture, then states before the first frame; later ones are the backend's own.

        The next call of an incremental backend overwrites them.
        """
        ...

    @property
    def cache_bytes(self) -> int:
        """Memory of the values that live from call to call."""
        ...

    def close(self) -> None:
        """Give back memory and threads. Calling it again does nothing."""
        ...


@dataclass(eq=False, slots=True)
class BackendHandle:
    """Says which backend a frame is for, also before that backend is made."""

    path: Path
    """The model's file."""
    incremental: bool
    """See `Backend`; what is expected until the backend is made."""
    backend: Backend | None = None
    """None until its first frame runs."""


def available_threads() -> int:
    """The number of CPUs that this process may use."""
    return core_count()


def _thread_count(threads: int) -> int:
    """Of a backend; 0: one a CPU."""
    return bounded_threads(threads) if threads else available_threads()


class OnnxRuntimeBackend(Closing):
    """ONNX Runtime.

    threads: 0: one a CPU, which is also the most. They sleep while they wait: a spinning pool would
    slow down decoding and drawing in the same process. provider: where to run instead of the CPU,
    by ONNX Runtime's name, with its options. Raises ModelError if the file cannot be loaded, or a
    call fails; RunEndedError for a call that is in progress in another thread at `close`.
    """

    incremental = False
    cache_bytes = 0

    def __init__(
        self, path: Path, threads: int = 0, provider: tuple[str, dict[str, str]] | None = None
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = _thread_count(threads)
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        options.log_severity_level = 4
        self.path, self.session_options = path, options
        self.worker_clock = WorkerClock()
        try:
            with self.worker_clock:
                self._session: EndableSession | None = EndableSession(
                    str(path), options, [provider or "CPUExecutionProvider"], str(path)
                )
        except Exception as error:
            raise ModelError(f"{path}: ONNX Runtime cannot load it: {_reason(error)}") from error
        self._inputs = {each.name: each for each in self._session.session.get_inputs()}
        self._state = FedBackState()

    def __repr__(self) -> str:
        inputs = ", ".join(f"{each.name} {each.shape}" for each in self._inputs.values())
        return f"<OnnxRuntimeBackend {self.path.name}: {inputs}>"

    def run(self, feed: Feed, change: ChangeMap | None) -> list[NDArray[Any]]:
        """Compute every layer, whatever changed. The arrays are new."""
        session = self._session
        if session is None:
            raise ModelError(f"{self.path}: the backend was closed before this call")
        feed = self._state.applied(dict(feed))
        try:
            outputs = session.run(None, feed)
            self._state.take(outputs)
        except RunEndedError:
            raise
        except Exception as error:
            feeds = ", ".join(f"{name} {value.dtype} {value.shape}" for name, value in feed.items())
            inputs = ", ".join(f"{i.name} {i.type} {i.shape}" for i in self._inputs.values())
            raise ModelError(
                f"{self.path}: ONNX Runtime stopped: {_reason(error)};"
                f" the model wants {inputs}; it was given {feeds}"
            ) from error
        return [np.asarray(output) for output in outputs]

    def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.end()


class OpenvinoBackend:
    """OpenVINO, set to the least latency, in float32 like the other backends.

    threads: 0: one a CPU. Raises ModelError if it is not installed or cannot compile the file.
    """

    incremental = False
    cache_bytes = 0

    def __init__(self, path: Path, threads: int = 0, device: str = "CPU") -> None:
        try:
            import openvino
        except ImportError as error:
            raise ModelError(f"OpenVINO is not installed: {install_command('bench')}") from error
        config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if device == "CPU":
            config["INFERENCE_NUM_THREADS"] = _thread_count(threads)
            config["INFERENCE_PRECISION_HINT"] = "f32"
        self.path = path
        try:
            self._model: Any = openvino.Core().compile_model(str(path), device, config)
        except RuntimeError as error:
            reason = shortened(" ".join(str(error).split()))
            raise ModelError(
                f"{path}: OpenVINO cannot compile it for {device}: {reason}"
            ) from error
        self._request: Any = self._model.create_infer_request()
        self.worker_clock = WorkerClock()
        self._has_run = False
        self._state = FedBackState()

    def __repr__(self) -> str:
        return f"<OpenvinoBackend {self.path.name}>"

    def run(self, feed: Feed, change: ChangeMap | None) -> list[NDArray[Any]]:
        """Compute every layer, whatever changed. The arrays are new."""
        feed = self._state.applied(dict(feed))
        # its threads are started by the first run
        with contextlib.nullcontext() if self._has_run else self.worker_clock:
            results = infer_openvino(self._request, feed, str(self.path))
        self._has_run = True
        outputs = [np.asarray(value) for value in results.to_tuple()]
        self._state.take(outputs)
        return outputs

    def close(self) -> None:
        self._request = self._model = None


class ReuseBackend:
    """The reuse engine: recomputes what the changed pixels reach. Outputs are views until the next
    call. Where nearly all of a network is islands it is not incremental: it computes whole frames,
    and its outputs are new arrays.

    threads: 0: one a CPU. tolerance: see `ReuseSession`; 0 is exact. profile: a share for each
    layer instead. islands: where the parts run that the reuse engine leaves to ONNX Runtime; None:
    on the CPU. widen: see `ReuseSession`. far: see `Tolerance.far`; it applies where `attend` says
    that nothing of importance is near. Raises ModelError if the file cannot be compiled.
    """

    def __init__(
        self,
        path: Path,
        threads: int = 0,
        tolerance: float = 0.0,
        profile: "TuningProfile | None" = None,
        islands: Device | None = None,
        *,
        widen: bool = False,
        far: float = 1.0,
    ) -> None:
        from stillframe.reuse.plan.tolerance import Tolerance
        from stillframe.reuse.session import ReuseSession  # the compiler: slow to import

        self.path = path
        shares = Tolerance(tolerance) if profile is None else profile.shares
        self.session = ReuseSession(
            path,
            threads=threads or None,
            tolerance=replace(shares, far=far),
            island_providers=island_providers(islands),
            states=None,
            widen=widen,
        )
        self.incremental = not self.session.all_island
        self._tolerance = self.session.tolerance
        self._factor = 1.0
        self._state = FedBackState()

    def __repr__(self) -> str:
        return f"<ReuseBackend {self.path.name}>"

    @property
    def exact(self) -> bool:
        """Whether the tolerance is 0; `steer` then does nothing."""
        return self._tolerance.exact

    def steer(self, factor: float, lowered: bool) -> None:
        """From the next run on multiply the tolerance that the backend was made with by the factor.

        lowered: the factor is below the last one: what is stored may be too far off and is computed
        anew. The factor that it has already changes nothing, so a tolerance that the session's
        owner set stays. From any thread.
        """
        if factor == self._factor and not lowered:
            return
        self._factor = factor
        scale_tolerance(self.session, self._tolerance, factor, lowered)

    @property
    def attends(self) -> bool:
        """Whether `attend` makes a difference."""
        return self._tolerance.far > 1 and not self.exact and self.incremental

    def attend(self, near: NDArray[np.uint8] | None) -> None:
        """Say where exactness matters, see `ReuseSession.attend`."""
        self.session.attend(near)

    def run(self, feed: Feed, change: ChangeMap | None) -> list[NDArray[Any]]:
        """Recompute what `change` reaches; None: everything."""
        change = change if self.incremental else None
        outputs = step_session(self.session, self._state.applied(dict(feed)), change)
        self._state.take(outputs)
        return outputs if self.incremental else [np.array(output) for output in outputs]

    @property
    def cache_bytes(self) -> int:
        return self.session.memory.persistent

    def close(self) -> None:
        self.session.close()


class DenseStepBackend:
    """Computes whole frames with a reuse engine, which somebody else closes.

    The engine forgets what it stored: the next one to use it begins with a whole frame.
    """

    incremental = False

    def __init__(self, backend: ReuseBackend) -> None:
        self._backend = backend

    def run(self, feed: Feed, change: ChangeMap | None) -> list[NDArray[Any]]:
        """Compute every layer, whatever changed. The arrays are new."""
        return [np.array(output) for output in self._backend.run(feed, None)]

    @property
    def cache_bytes(self) -> int:
        return self._backend.cache_bytes

    def close(self) -> None:
        """Nothing: the owner does."""


class BorrowedBackend:
    """Runs a backend that somebody else closes, because it goes on elsewhere.

    It is steered as the backend itself is; one without a tolerance counts as exact.
    """

    def __init__(self, backend: Backend) -> None:
        self.incremental = backend.incremental
        self.run = backend.run
        self.worker_clock: WorkerClock | None = getattr(backend, "worker_clock", None)
        self._backend: Any = backend

    @property
    def exact(self) -> bool:
        return bool(getattr(self._backend, "exact", True))

    def steer(self, factor: float, lowered: bool) -> None:
        """Scale the backend's tolerance, if it has one."""
        if not self.exact:
            self._backend.steer(factor, lowered)

    @property
    def attends(self) -> bool:
        return bool(getattr(self._backend, "attends", False))

    def attend(self, near: NDArray[np.uint8] | None) -> None:
        """Say where exactness matters, to a backend that attends."""
        self._backend.attend(near)

    @property
    def cache_bytes(self) -> int:
        return int(self._backend.cache_bytes)

    def close(self) -> None:
        """Nothing: the owner does."""


def infer_openvino(request: Any, feed: Feed, title: str, **options: bool) -> Any:
    """The results of an OpenVINO request, in a call that another thread can end.

    options: further ones of `infer`. title: how errors name the model.
    """
    with native_call(title, request.cancel) as call:
        try:
            return request.infer(dict(feed), share_inputs=True, **options)
        except RuntimeError as error:
            if call.ended:
                raise RunEndedError(f"{title}: a run was ended before it had a result") from error
            raise


def step_session(
    session: "ReuseSession", feed: Feed, change: ChangeMap | None
) -> list[NDArray[Any]]:
    """One step of a session that is fed the picture; None: all of it is new."""
    if change is None or change.kind == "all":
        return session.step(feed, dense=True)[0]
    if not session.reads_pixels:  # an island reads the picture: it is compared as a whole
        return session.step(feed)[0]
    return session.step(feed, change.mask, renewed=change.renewed)[0]


def scale_tolerance(
    session: "ReuseSession", tolerance: "Tolerance", factor: float, lowered: bool
) -> None:
    """Set a session's tolerance to `tolerance` times the factor; an exact session stays exact."""
    if tolerance.exact:
        return
    session.tolerance = tolerance.scaled(factor)
    if lowered:
        session.reset()


def island_providers(device: Device | None) -> list[Any] | None:
    """What `ReuseSession` takes: the device, and the CPU for what the device cannot do."""
    if device is None:
        return None
    return [(device[0], {"device_id": device[1]}), "CPUExecutionProvider"]


def _reason(error: Exception) -> str:
    """ONNX Runtime's message on one line, without its own code in front."""
    text = " ".join(str(error).split())
    return text.split(" : ", 2)[-1] if text.startswith("[ONNXRuntimeError]") else text
