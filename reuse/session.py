"""ReuseSession: the public entry point, a drop-in for onnxruntime.InferenceSession.

    session = ReuseSession("model.onnx")
    outputs = session.run(None, {"input": frame})

Feed it the frames of one stream in order; it computes what changed since the last one.
"""

import os
import threading
import time
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime import InferenceSession  # bound at import: callers may replace it by ReuseSession

from stillframe.closing import Closing
from stillframe.cores import bounded_threads, core_count
from stillframe.errors import UsageError
from stillframe.reuse.compile import compile_graph, compile_model
from stillframe.reuse.disk_cache import DiskCache
from stillframe.reuse.frontend.fingerprint import fingerprint
from stillframe.reuse.frontend.model_errors import model_errors, model_title
from stillframe.reuse.frontend.signature import DeclaredPort, ModelSignature, read_signature
from stillframe.reuse.ir.graph import Port
from stillframe.reuse.plan.memory_report import MemoryReport, report
from stillframe.reuse.plan.plan import Plan, Tuning
from stillframe.reuse.plan.refresh_schedule import RefreshOrder
from stillframe.reuse.plan.tolerance import Tolerance, measure
from stillframe.reuse.runtime.autotune import tune
from stillframe.reuse.runtime.dense_start import DenseStart
from stillframe.reuse.runtime.engine import CPU_ONLY, PlanRunner, StepStats, known_providers
from stillframe.reuse.runtime.io_binding import IoBinding
from stillframe.reuse.runtime.session_quality import QualityKeeper, SessionQuality
from stillframe.reuse.runtime.whole_model import WholeModel
from stillframe.reuse.runtime.workers import Workers

Array = NDArray[Any]

OWN_PROVIDER = "StillframeExecutionProvider"
CLOSE_GRACE_S = 2.0  # how long `close` waits for the step in progress before it ends its islands
LONGEST_PAUSE = 255  # most dense steps between two measurements of the layers' magnitudes


MOST_SHAPES = 32
"""Shapes of feeds for which a session keeps its plan and activations."""
SHAPES_BYTES = 1 << 30
"""What those of all shapes but the present one may take together."""


class RecompiledWarning(RuntimeWarning):
    """A feed came in a shape that the network is not compiled for, or no more."""


@dataclass(slots=True)
class _Compiled:
    """The network for feeds of one shape, with the stream of that shape."""

    runner: PlanRunner
    magnitudes: dict[str, float] = field(default_factory=dict)
    pause: int = 0
    """Steps, of those that may, until the magnitudes are measured again."""
    measurements: int = 0
    """How often they were measured."""

    def calibrate(self, tolerance: Tolerance) -> None:
        """Measure the layers after a step, at growing intervals: the first frame may be
        black, but a moving camera makes every step dense, and measuring costs time."""
        if self.pause:
            self.pause -= 1
            return
        self.magnitudes = measure(self.runner.plan)
        tolerance.apply(self.runner.plan, self.magnitudes)
        self.measurements += 1
        self.pause = min(2**self.measurements - 1, LONGEST_PAUSE)

    def reset(self) -> None:
        self.pause = self.measurements = 0
        self.runner.reset()


class ReuseSession(Closing):
    """An ONNX model that keeps its activations from one call to the next.

    path_or_bytes: an .onnx file, or its bytes.
    tolerance: 0 is exact: every result is bit for bit what computing everything gives. Above 0, the
        stored value of a position differs from what computing it gives by at most this share of
        the layer's root mean square, as the root mean square over channels; 0.1 to 0.3 is usual.
        `Tolerance.read` reads a share for each layer from a profile that `stillframe tune` wrote.
    profile: deprecated spelling of `tolerance=Tolerance.read(profile)`.
    threads: worker threads; None: one for every core that the process may use, which is also the
        most: ThreadsWarning tells of more.
    cpus: cores to pin them to, in turn; empty: the system decides.
    break_even: share of the multiply-adds above which a step computes everything; None: measured
        on this host. From which share of changed input on it is exceeded is learnt.
    memory_budget: most bytes of activations, persistent and transient together; what costs least is
        computed again instead of stored. None: three fifths of what storing every activation takes.
        If no plan fits the budget, `notes` says so.
    island_providers: execution providers of ONNX Runtime for islands; None: the CPU.
    widen: compute a quantised model (QDQ, QLinear operators, dynamic quantisation) in float32,
        with the weights that quantising left it. It can be reused then; results are not bit for bit
        those of its integers, since they are rounded less. Otherwise ONNX Runtime runs the
        integers, and nothing there is reused. `notes` says what was done. float16 is always
        widened.
    states: inputs that the caller feeds with outputs of the frame before, such as the recurrent
        maps of a video matting network. With a tolerance they are taken in like the output of a
        layer: what differs by less from what is stored counts as unchanged. None: all inputs but
        the first.

    batch: what feeds with a batch above 1 are, where the model leaves it open. "dense": ONNX
        Runtime computes all of them, unless a batch is the last one of its shape again; nothing is
        compiled for them. "streams": row i of the batch is a frame of stream
        i, each with activations of its own; such a feed is compared and takes no change map.

    quality: instead of a tolerance: the least mean closeness of the outputs to those of computing
        everything, above 0 and at most 1; 1 is exact. Closeness is 1 - relative error of the worst
        output: a session does not know what outputs mean. The tolerance is chosen and changed by
        audits: steps drawn at random are computed whole too, about a tenth of the work. The first
        results come from ONNX Runtime while the engine is prepared. `session.quality` says what
        was measured, and what is proven.

    sess_options, providers and provider_options exist for code that was written for
    InferenceSession. The thread count of sess_options is used; the rest is ignored.

    Calls from several threads run one after the other; a call after `close` raises UsageError, and
    so does one in progress whose island takes longer than `close` waits. A
    fork copies the session: parent and child go on with streams of their own. Results of `run`
    belong to the caller; those of `step` are views that the next call overwrites. Raises ModelError
    for a model that neither the engine nor ONNX Runtime can run, and UsageError for a feed that
    does not fit; the session stays usable after that.
    """

    def __init__(
        self,
        path_or_bytes: str | os.PathLike[str] | bytes,
        sess_options: ort.SessionOptions | None = None,
        providers: Sequence[Any] | None = None,
        provider_options: Sequence[Any] | None = None,
        *,
        tolerance: float | Tolerance = 0.0,
        profile: Any = None,
        threads: int | None = None,
        cpus: Sequence[int] = (),
        break_even: float | None = None,
        island_providers: Sequence[Any] | None = None,
        memory_budget: int | None = None,
        states: Sequence[str] | None = (),
        batch: str = "dense",
        widen: bool = False,
        quality: float | None = None,
        **_: Any,
    ) -> None:
        self._keeper = None if quality is None else QualityKeeper(quality)
        if self._keeper is not None:
            if tolerance or profile is not None or batch != "dense" or states != ():
                raise UsageError(
                    "quality: expected no tolerance, profile, streams or states beside it: it "
                    "chooses the tolerance of one stream, whose steps can be measured one by one"
                )
            tolerance = self._keeper.tolerance
        if profile is not None:
            tolerance = _from_profile(profile, tolerance)
        if isinstance(path_or_bytes, bytes | bytearray | memoryview):
            self._source: Path | bytes = bytes(path_or_bytes)
        else:
            self._source = Path(path_or_bytes)
        self._options = sess_options
        if threads is None and sess_options is not None:
            threads = sess_options.intra_op_num_threads or None
        if threads is not None and threads < 0:
            raise UsageError(f"threads: expected a number >= 1, got {threads}")
        count = bounded_threads(threads) if threads else core_count()
        self._model: ModelSignature = read_signature(self._source)
        if not isinstance(tolerance, Tolerance):
            tolerance = Tolerance(tolerance)
        if tolerance.fingerprint:
            tolerance.check(fingerprint(self._source))
        self._tolerance = tolerance
        self._start: DenseStart[_Compiled] | None = None
        """While the engine is prepared."""
        self._break_even, self._islands_on = (
            break_even,
            known_providers(island_providers or CPU_ONLY),
        )
        if memory_budget is not None and memory_budget < 0:
            raise UsageError(f"memory budget: expected bytes >= 0, got {memory_budget}")
        self._memory_budget = memory_budget
        if batch not in ("dense", "streams"):
            raise UsageError(f"batch: expected 'dense' or 'streams', got {batch!r}")
        self._batch, self._cpus, self._widen = batch, tuple(cpus), widen
        self._streams: list[ReuseSession] = []  # of the rows of a batch
        self._tuning: Tuning | None = None  # measured for the first shape
        self._whole: WholeModel | None = None  # for batches that are no streams
        names = [port.name for port in self._model.inputs]
        self._states = tuple(names[1:] if states is None else states)
        for name in self._states:
            if name not in names:
                raise UsageError(f"states: expected some of the inputs {names}, got {name!r}")
        if self._keeper is not None and not tolerance.exact:
            self._states = tuple(names)  # a camera's noise is taken in with the tolerance too
        self._workers = Workers(count, cpus)
        self._lock = threading.RLock()
        self._closed = False
        self._current: _Compiled | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._compiled: OrderedDict[tuple[tuple[int, ...], ...], _Compiled] = OrderedDict()
        self._order: RefreshOrder | None = None
        self._reference: InferenceSession | None = None
        self.last_stats: StepStats | None = None
        fixed = {port.name: port.shape for port in self._model.inputs}
        known = {
            name: tuple(size for size in shape if isinstance(size, int))
            for name, shape in fixed.items()
        }
        is_fixed = all(len(known[name]) == len(shape) for name, shape in fixed.items())
        if self._keeper is not None and not (tolerance.exact or widen):
            self._start_dense(known if is_fixed else None)
        elif is_fixed:
            self._compile(known)
        _sessions.add(self)

    # --- the shape of onnxruntime.InferenceSession ----------------------------------------------
    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: ort.RunOptions | None = None,
    ) -> list[Array]:
        """The outputs by name (None: all), brought up to date for these feeds.

        run_options: of ONNX Runtime, for islands; `terminate` ends one that runs.
        """
        with self._lock:
            self._check_open()
            names = self._output_names(output_names)
            outputs, _ = self._step(input_feed, run_options=run_options)
            every = [port.name for port in self._model.outputs]
            return [np.array(outputs[every.index(name)]) for name in names]

    def get_inputs(self) -> list[DeclaredPort]:
        return list(self._model.inputs)

    def get_outputs(self) -> list[DeclaredPort]:
        return list(self._model.outputs)

    def get_providers(self) -> list[str]:
        names = [each if isinstance(each, str) else each[0] for each in self._islands_on]
        return [OWN_PROVIDER, *dict.fromkeys((*names, "CPUExecutionProvider"))]

    def set_providers(
        self, providers: Sequence[Any] | None = None, provider_options: Sequence[Any] | None = None
    ) -> None:
        """Run islands on these execution providers from now on; None: on the CPU.

        The next call computes everything. Raises UsageError for one that ONNX Runtime does not
        have here. provider_options: one mapping for each, as InferenceSession takes them.
        """
        own = [each for each in providers or () if each != OWN_PROVIDER]
        if provider_options and len(provider_options) == len(own):
            own = [
                (each, options) if isinstance(each, str) and options else each
                for each, options in zip(own, provider_options, strict=True)
            ]
        with self._lock:
            self._check_open()
            self._islands_on = known_providers(own or CPU_ONLY)
            with model_errors(model_title(self._source)):
                for each in self._compiled.values():
                    each.runner.set_providers(self._islands_on)
                if self._whole is not None:
                    self._whole.set_providers(self._islands_on)

    def run_async(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        callback: Callable[[list[Array], Any, str], None],
        user_data: Any = None,
        run_options: ort.RunOptions | None = None,
    ) -> None:
        """`run` in a thread of its own; calls callback(outputs, user_data, error text).

        The text is empty where all went well; otherwise there are no outputs. Frames that are
        under way together are taken in any order, so wait for one before you feed the next.
        """

        def work() -> None:
            outputs: list[Array] = []
            problem = ""
            try:
                outputs = self.run(output_names, input_feed, run_options)
            except Exception as error:  # the caller gets it as text, as from ONNX Runtime
                problem = str(error) or type(error).__name__
            callback(outputs, user_data, problem)

        threading.Thread(target=work, name="stillframe-run", daemon=True).start()

    def run_with_ort_values(
        self,
        output_names: Sequence[str] | None,
        input_dict_ort_values: Mapping[str, Any],
        run_options: ort.RunOptions | None = None,
    ) -> list[ort.OrtValue]:
        """`run` from and to OrtValues in main memory."""
        outputs = self.run(output_names, input_dict_ort_values, run_options)
        return [ort.OrtValue.ortvalue_from_numpy(each) for each in outputs]

    def io_binding(self) -> IoBinding:
        """Where feeds come from and outputs go to, for `run_with_iobinding`; main memory only."""
        ports = self._model.inputs, self._model.outputs
        return IoBinding(*([port.name for port in each] for each in ports))

    def run_with_iobinding(
        self, iobinding: IoBinding, run_options: ort.RunOptions | None = None
    ) -> None:
        """`run` with the feeds that are bound; the outputs are left in the binding."""
        names = iobinding.requested
        iobinding.receive(
            dict(zip(names, self.run(names, iobinding.feeds, run_options), strict=True))
        )

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        return {name: {} for name in self.get_providers()}

    def get_session_options(self) -> ort.SessionOptions:
        return self._options if self._options is not None else ort.SessionOptions()

    def get_modelmeta(self) -> Any:
        """The model's metadata, as ONNX Runtime reads it."""
        with self._lock:
            if self._reference is None:
                options = ort.SessionOptions()
                options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
                options.log_severity_level = 3
                source = self._source if isinstance(self._source, bytes) else str(self._source)
                self._reference = InferenceSession(
                    source, options, providers=["CPUExecutionProvider"]
                )
            return self._reference.get_modelmeta()

    # --- what InferenceSession does not have ----------------------------------------------------
    def step(
        self,
        feeds: Mapping[str, Any],
        change: Mapping[str, Any] | Any = None,
        *,
        dense: bool = False,
        renewed: tuple[int, int] = (0, 0),
    ) -> tuple[list[Array], StepStats]:
        """As `run`, for callers who know what changed; -> (all outputs as views, what was done).

        change: an (H, W) array that is true where the input may differ from the last one, or one
        for each input by name; elsewhere the feed is not read. None: the feed is compared.
        dense: compute everything. renewed: rows of the picture with exclusive end, all true in
        `change`, that are to be renewed at every layer, whatever the tolerance; see also
        `follow_refresh`.
        """
        return self._step(feeds, change, dense, renewed, None)

    def _step(
        self,
        feeds: Mapping[str, Any],
        change: Mapping[str, Any] | Any = None,
        dense: bool = False,
        renewed: tuple[int, int] = (0, 0),
        run_options: ort.RunOptions | None = None,
    ) -> tuple[list[Array], StepStats]:
        with self._lock:
            self._check_open()
            arrays = self._checked(feeds)
            shapes = {name: array.shape for name, array in arrays.items()}
            if self._batch == "streams" and any(shape[:1] > (1,) for shape in shapes.values()):
                return self._step_streams(arrays, change, dense, run_options)
            if self._is_open_batch(shapes):
                if self._keeper is not None:
                    self._keeper.draws(whole=True)
                return self._step_whole(arrays, change, dense, run_options)
            if self._start is not None:
                answer = self._start.run(arrays, run_options) if change is None else None
                if answer is not None:
                    assert self._keeper is not None
                    self._keeper.draws(whole=True)
                    self.last_stats = StepStats(1.0, True, 1.0, 0)
                    return answer, self.last_stats
                self._finish_start()
            began_s = time.thread_time()
            if self._current is None or shapes != self._shapes:
                change = change if self._current is None else None  # it was about another shape
                if self._current is not None and _key(shapes) not in self._compiled:
                    warnings.warn(
                        f"feeds changed from {self._shapes} to {shapes}: compiling again and "
                        "starting afresh",
                        RecompiledWarning,
                        stacklevel=3,
                    )
                self._compile(shapes)
                self._check_open()  # `close` may have given up waiting meanwhile
            current = self._current
            assert current is not None
            engine = current.runner
            for port in engine.plan.graph.inputs:
                if port.layout != "raw":  # regions are float32 whatever the model declares
                    arrays[port.name] = arrays[port.name].astype(np.float32, copy=False)
            maps = self._change_maps(change)
            rows = self._rows(maps, renewed)
            with model_errors(model_title(self._source)):
                stats = engine.step(arrays, maps, dense, rows, run_options)
                # a state begins as zeros, so what it is measured by comes with later frames
                if (stats.dense or self._states) and not self._tolerance.exact:
                    current.calibrate(self._tolerance)
                if self._keeper is not None:
                    spent_s = self._workers.count * (time.thread_time() - began_s)
                    covered = maps is None  # the feed was compared, so all of it is there
                    if self._keeper.draws(whole=stats.dense, covered=covered, spent_s=spent_s):
                        self._audit(engine, self._keeper, arrays, run_options)
                outputs = self._views(engine)
            self.last_stats = stats
            return outputs, stats

    def _is_open_batch(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether a feed is several pictures where the model leaves open how many."""
        first = self._model.inputs[0]
        shape = shapes[first.name]
        return len(shape) == 4 and shape[0] > 1 and not isinstance(first.shape[0], int)

    def _step_whole(
        self,
        arrays: Mapping[str, Array],
        change: Any,
        dense: bool,
        run_options: ort.RunOptions | None,
    ) -> tuple[list[Array], StepStats]:
        """A batch, computed by ONNX Runtime unless it is the last one of its shape again."""
        if change is not None:
            raise UsageError("expected no change map for a batch, which is compared as a whole")
        title = model_title(self._source)
        names = [port.name for port in self._model.outputs]
        with model_errors(title):
            if self._whole is None:
                self._whole = WholeModel(self._source, title, self._workers.count, self._islands_on)
            outputs, self.last_stats = self._whole.step(arrays, names, dense, run_options)
        return [_read_only(output) for output in outputs], self.last_stats

    def _audit(
        self,
        engine: PlanRunner,
        keeper: QualityKeeper,
        arrays: Mapping[str, Array],
        run_options: ort.RunOptions | None,
    ) -> None:
        """Compute all of the step that was just done, and steer by how close it was. The outputs
        are the whole ones then."""
        partial = [np.array(output) for output in self._views(engine)]
        began_s = time.thread_time()
        engine.step(arrays, None, True, (0, 0), run_options)
        spent_s = self._workers.count * (time.thread_time() - began_s)
        keeper.add_audit(partial, self._views(engine), spent_s)
        if keeper.tolerance != self._tolerance.share:
            self._set_tolerance(Tolerance(keeper.tolerance))

    def _views(self, engine: PlanRunner) -> list[Array]:
        """All outputs, overwritten by the next step."""
        return [self._view(engine, port.name) for port in engine.plan.graph.outputs]

    def _step_streams(
        self,
        arrays: Mapping[str, Array],
        change: Any,
        dense: bool,
        run_options: ort.RunOptions | None,
    ) -> tuple[list[Array], StepStats]:
        """One step of each row's stream; the outputs of all, one after the other."""
        counts = {array.shape[0] if array.ndim else 0 for array in arrays.values()}
        declared = [port.shape[0] if port.shape else 0 for port in self._model.inputs]
        if len(counts) > 1 or any(isinstance(size, int) for size in declared):
            raise UsageError(
                f"batch='streams': expected feeds of one batch that the model leaves open, got "
                f"{ {name: array.shape for name, array in arrays.items()} }"
            )
        if change is not None:
            raise UsageError("batch='streams': expected no change map, a batch is compared")
        (count,) = counts
        while len(self._streams) < count:
            self._streams.append(
                ReuseSession(
                    self._source,
                    self._options,
                    tolerance=self._tolerance,
                    threads=self._workers.count,
                    cpus=self._cpus,
                    break_even=self._break_even,
                    island_providers=self._islands_on,
                    memory_budget=self._memory_budget,
                    states=self._states,
                    widen=self._widen,
                )
            )
        rows: list[list[Array]] = []
        done: list[StepStats] = []
        for row, stream in enumerate(self._streams[:count]):
            feeds = {name: array[row : row + 1] for name, array in arrays.items()}
            outputs, stats = stream._step(feeds, None, dense, (0, 0), run_options)
            rows.append(outputs)
            done.append(stats)
        for port, output in zip(self._model.outputs, rows[0], strict=True):
            if output.shape[:1] != (1,):
                raise UsageError(
                    f"batch='streams': expected output {port.name!r} with a batch of 1 for a feed "
                    f"of 1, got shape {output.shape}"
                )
        self.last_stats = StepStats(
            changed=float(np.mean([each.changed for each in done])),
            dense=all(each.dense for each in done),
            work=float(np.mean([each.work for each in done])),
            islands_run=sum(each.islands_run for each in done),
        )
        return [np.concatenate(each) for each in zip(*rows, strict=True)], self.last_stats

    @property
    def refresh_order(self) -> RefreshOrder:
        """In which order the outputs are renewed by steps whose `renewed` sweeps the picture."""
        return self._runner().refresh_schedule.outputs

    def follow_refresh(self, order: RefreshOrder) -> None:
        """Let `renewed` mean rows of the picture of another session, whose outputs are fed here.

        order: that session's `refresh_order`. A step with `renewed` then needs the change maps of
        `refresh_marks`.
        """
        with self._lock:
            self._order = order
            self._runner().follow(order)

    def refresh_marks(self, renewed: tuple[int, int]) -> dict[str, NDArray[np.uint8]]:
        """Change maps of the rows of each input that are renewed with these rows of the picture.

        Empty where none are.
        """
        order, marks = self._runner().refresh_schedule.inputs, {}
        for name in order.due:
            first, end = order.rows(name, renewed)
            marks[name] = np.zeros(self.plan.graph.shapes[name][:2], np.uint8)
            marks[name][first:end] = 1
        return marks if any(each.any() for each in marks.values()) else {}

    def attend(self, near: Array | None) -> None:
        """Say where exactness matters: in the next steps changes elsewhere may be larger.

        near: (h, w), true where something of importance is or is about to be, such as around the
        boxes of the last result; it is stretched over the first picture, and a cell of 16 pixels is
        fine enough. There the tolerance's shares hold, elsewhere they are `Tolerance.far` times
        larger. None: the same everywhere, as at first. It holds for a feed of the present shape.
        Rows of a batch have no such map.

        A value that was far and comes near may be off by the far limit until something that it
        reads changes. Raises UsageError unless `near` has two axes and a cell.
        """
        if near is not None:
            near = np.asarray(near)
            if near.ndim != 2 or not near.size:
                raise UsageError(f"attend: expected a map (h, w), got shape {near.shape}")
        with self._lock:
            self._check_open()
            self._runner().attend(near)

    @property
    def quality(self) -> SessionQuality | None:
        """How close the outputs were to those of computing everything: measured, and proven.

        None unless the session was made with `quality`.
        """
        with self._lock:
            return None if self._keeper is None else self._keeper.report

    def reset(self) -> None:
        """Forget all activations, and what was learnt about the stream: the next call computes
        everything."""
        with self._lock:
            for each in self._compiled.values():
                each.reset()
            if self._whole is not None:
                self._whole.reset()
            for stream in self._streams:
                stream.reset()

    @property
    def tolerance(self) -> Tolerance:
        """What counts as unchanged in each layer. It can be set between steps.

        Stored values are renewed only as they change; call `reset` as well if a smaller tolerance
        must hold at once. Raises UsageError if only one of the old and the new one is exact.
        """
        return self._tolerance

    @tolerance.setter
    def tolerance(self, tolerance: Tolerance) -> None:
        if self._keeper is not None:
            raise UsageError("tolerance: this session chooses its own, by its quality")
        self._set_tolerance(tolerance)

    def _set_tolerance(self, tolerance: Tolerance) -> None:
        with self._lock:
            if tolerance.exact != self._tolerance.exact:
                raise UsageError(
                    "an exact session is compiled otherwise than one with a tolerance: make another"
                )
            self._tolerance = tolerance
            for each in self._compiled.values():
                tolerance.apply(each.runner.plan, each.magnitudes)
            for stream in self._streams:
                stream.tolerance = tolerance

    @property
    def plan(self) -> Plan:
        """The compiled network. Raises UsageError before the first feed of an open-shaped model."""
        return self._runner().plan

    @property
    def picture_inputs(self) -> tuple[str, ...]:
        """The inputs that take a change map; the others are read by islands alone."""
        return tuple(port.name for port in self.plan.graph.inputs if port.layout != "raw")

    @property
    def reads_pixels(self) -> bool:
        """Whether the first input takes a change map."""
        return self._model.inputs[0].name in self.picture_inputs

    @property
    def all_island(self) -> bool:
        """Whether ONNX Runtime does nearly all of the work, so that reuse cannot pay. False before
        the first feed of a model with open shapes."""
        return self._current is not None and self.plan.all_island

    @property
    def memory(self) -> MemoryReport:
        """Bytes by purpose, for the shape of the last feed, and of the other shapes together."""
        current = report(self.plan)
        others = sum(_bytes(each) for each in self._compiled.values()) - current.total
        others += 0 if self._whole is None else self._whole.stored_bytes
        return replace(current, other_shapes=others)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about how the model runs."""
        notes = self.plan.graph.notes
        needed = self.plan.memory.size
        if self._memory_budget is not None and needed > self._memory_budget:
            notes += (
                f"the least for this network is {needed} bytes of activations, which is more "
                f"than the memory budget of {self._memory_budget}",
            )
        return notes

    def close(self) -> None:
        """End the worker threads, after the step in progress. Idempotent.

        An island that is still running after CLOSE_GRACE_S is ended; its call raises UsageError.
        """
        self._closed = True  # first: a thread that calls again and again must not keep the lock
        if not self._lock.acquire(timeout=CLOSE_GRACE_S):
            if self._current is not None:
                self._current.runner.end_runs()
            if self._whole is not None:
                self._whole.end_runs()
            self._lock.acquire()
        try:
            for stream in self._streams:
                stream.close()
            start, self._start = self._start, None
            if start is not None:
                start.end(CLOSE_GRACE_S)
            self._workers.close()
        finally:
            self._lock.release()

    def __del__(self) -> None:
        workers = getattr(self, "_workers", None)
        if workers is not None:
            workers.close()

    def __reduce__(self) -> Any:
        raise TypeError(
            "a ReuseSession cannot be pickled: it holds the activations of one stream; make one in "
            "each process from the model's path"
        )

    def __repr__(self) -> str:
        name = "bytes" if isinstance(self._source, bytes) else self._source.name
        if self._current is None:
            return f"<ReuseSession {name}, not compiled: shapes are open>"
        plan = self._current.runner.plan
        size = "x".join(str(side) for side in plan.graph.inputs[0].shape)
        return (
            f"<ReuseSession {name} {size}, {len(plan.layers)} instructions, "
            f"{self.memory.total / 1e6:.0f} MB>"
        )

    # --- inside ---------------------------------------------------------------------------------
    def _check_open(self) -> None:
        if self._closed:
            raise UsageError(f"{self!r} was closed before this call: make another session")

    def _restart_after_fork(self) -> None:
        self._lock = threading.RLock()  # a thread that only the parent has may hold the old one
        for each in self._compiled.values():
            each.runner.restart_after_fork()
        if self._whole is not None:
            self._whole.leave_to_parent()
            self._whole = None

    def _start_dense(self, shapes: Mapping[str, tuple[int, ...]] | None) -> None:
        """Answer by ONNX Runtime until the engine is ready for these shapes; None: for those that
        are fed first."""
        title = model_title(self._source)
        model = self._source if isinstance(self._source, bytes) else str(self._source)
        with model_errors(title):
            self._start = DenseStart(model, title, self._workers.count, self._prepared)
        if shapes is not None:
            self._start.begin(shapes)

    def _prepared(self, shapes: Mapping[str, tuple[int, ...]]) -> _Compiled:
        """The engine for these shapes, its kernels loaded by a step on empty feeds."""
        compiled = _Compiled(self._new_runner(shapes))
        feeds = {port.name: np.zeros(shapes[port.name], port.dtype) for port in self._model.inputs}
        for port in compiled.runner.plan.graph.inputs:
            if port.layout != "raw":
                feeds[port.name] = feeds[port.name].astype(np.float32, copy=False)
        with model_errors(model_title(self._source)):
            compiled.runner.step(feeds, None, True)
        compiled.reset()
        return compiled

    def _finish_start(self) -> None:
        """Let the engine take over, after waiting for it. ONNX Runtime's weights are let go."""
        start, self._start = self._start, None
        if start is None or not start.begun:
            return
        compiled = start.take()
        if compiled is not None:
            self._compiled[_key(start.shapes)] = compiled
            self._compile(start.shapes)

    def _runner(self) -> PlanRunner:
        if self._start is not None and self._start.begun:
            with self._lock:
                self._finish_start()
        if self._current is None and self._streams:
            return self._streams[0]._runner()
        if self._current is None:
            raise UsageError("the model leaves its input shapes open: feed it once, then ask")
        return self._current.runner

    def _compile(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Make the plan for these shapes the present one, compiled unless it is stored."""
        known = self._compiled.get(_key(shapes))
        if known is None:
            known = self._compiled[_key(shapes)] = _Compiled(self._new_runner(shapes))
        self._compiled.move_to_end(_key(shapes))
        if self._order is not None:
            known.runner.follow(self._order)
        self._current, self._shapes = known, dict(shapes)
        spare = sum(map(_bytes, self._compiled.values())) - _bytes(known)
        while len(self._compiled) > MOST_SHAPES or spare > SHAPES_BYTES:
            _, oldest = self._compiled.popitem(last=False)
            spare -= _bytes(oldest)

    def _new_runner(self, shapes: Mapping[str, tuple[int, ...]]) -> PlanRunner:
        disk_cache = DiskCache()
        plan = compile_model(
            self._source,
            shapes,
            self._workers.count,
            exact=self._tolerance.exact,
            memory_budget=self._memory_budget,
            states=self._states,
            widened=self._widen,
            tune=lambda graph: self._tuning or tune(graph, disk_cache, compile_graph),
            disk_cache=disk_cache,
        )
        self._tuning = plan.tuning  # it changes no bit, and another shape's is near enough
        with model_errors(model_title(self._source)):
            return PlanRunner(plan, self._workers, self._break_even, self._islands_on)

    def _output_names(self, requested: Sequence[str] | None) -> list[str]:
        names = [port.name for port in self._model.outputs]
        unknown = [name for name in requested or () if name not in names]
        if unknown:
            raise UsageError(f"outputs {unknown} are asked for; the model has {names}")
        return list(requested) if requested else names

    def _checked(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        """The feeds as arrays of the declared dtype and rank."""
        declared = {port.name: port for port in self._model.inputs}
        if set(feeds) != set(declared):
            raise UsageError(f"expected feeds for {sorted(declared)}, got {sorted(feeds)}")
        arrays: dict[str, Array] = {}
        for name, port in declared.items():
            feed = feeds[name]
            if isinstance(feed, ort.OrtValue):
                feed = feed.numpy()
            if isinstance(feed, list | tuple | int | float):  # as ONNX Runtime takes them
                feed = _listed(feed, port)
            array = np.require(feed, requirements="A")  # a field of records may not be
            if array.dtype != port.dtype:
                raise UsageError(f"feed {name!r}: expected {port.dtype}, got {array.dtype}")
            if not fits(array.shape, port.shape):
                raise UsageError(f"feed {name!r}: expected shape {port.shape}, got {array.shape}")
            arrays[name] = array
        return arrays

    def _rows(self, maps: Mapping[str, Array] | None, renewed: tuple[int, int]) -> tuple[int, int]:
        """The rows to be renewed. Raises UsageError unless all of them are marked as changed."""
        first, end = renewed
        if end <= first:
            return 0, 0
        order = self._runner().refresh_schedule.inputs
        fits = 0 <= first < end <= order.height
        # Of several pictures that are not outputs of another session, the first one is swept.
        for name in order.due if self._order else [*order.due][:1]:
            low, high = order.rows(name, renewed)
            marked = None if maps is None else maps.get(name)
            fits &= low == high or (marked is not None and bool(marked[low:high].all()))
        if not fits:
            raise UsageError(
                f"renewed: expected rows that the change map marks as changed, got {first}..{end}"
            )
        return first, end

    def _change_maps(self, change: Any) -> dict[str, Array] | None:
        if change is None:
            return None
        ports = {port.name: port for port in self.plan.graph.inputs}
        maps = change if isinstance(change, Mapping) else {next(iter(ports)): change}
        masks: dict[str, Array] = {}
        for name, value in maps.items():
            if name not in ports or ports[name].layout == "raw":
                raise UsageError(f"change map for {name!r}: the model's pictures are {list(ports)}")
            expected = self.plan.graph.shapes[name][:2]
            array = np.asarray(value)
            if array.shape != tuple(expected):
                raise UsageError(
                    f"change map for {name!r}: expected shape {tuple(expected)}, got {array.shape}"
                )
            if array.dtype != np.uint8 or not array.flags.c_contiguous:
                array = np.ascontiguousarray(array != 0).view(np.uint8)
            masks[name] = array
        return masks

    @staticmethod
    def _view(engine: PlanRunner, name: str) -> Array:
        port: Port = next(port for port in engine.plan.graph.outputs if port.name == name)
        value = engine.output(name)
        if port.layout != "raw":
            value = value.reshape(port.shape)
        value = value.astype(port.dtype, copy=False) if port.dtype != "unknown" else value
        return _read_only(value)


_sessions: weakref.WeakSet[ReuseSession] = weakref.WeakSet()
"""Every session of this process."""


def _restart_all_after_fork() -> None:
    for session in list(_sessions):
        session._restart_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_restart_all_after_fork)


def _read_only(values: Array) -> Array:
    view = values.view()
    view.flags.writeable = False
    return view


def _key(shapes: Mapping[str, tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    return tuple(shapes.values())  # of the inputs in the order of the model


def _bytes(compiled: _Compiled) -> int:
    return report(compiled.runner.plan).total


def fits(shape: Sequence[int], declared: Sequence[int | str | None]) -> bool:
    """Whether a shape is what was declared; a name or None stands for any size."""
    return len(shape) == len(declared) and all(
        not isinstance(size, int) or size == got for got, size in zip(shape, declared, strict=True)
    )


def _listed(feed: Any, port: DeclaredPort) -> Array:
    """A list of numbers as an array of the declared dtype."""
    try:
        return np.asarray(feed, port.dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"feed {port.name!r}: expected numbers of {port.dtype}: {error}") from None


def _from_profile(profile: Any, tolerance: float | Tolerance) -> Tolerance:
    """What the deprecated parameter `profile` means: a file, or an object with `shares`."""
    if tolerance:
        raise UsageError("expected a tolerance or a profile, which has its own; got both")
    warnings.warn(
        "ReuseSession(profile=PATH) is deprecated: use tolerance=Tolerance.read(PATH)",
        DeprecationWarning,
        stacklevel=3,
    )
    shares: Tolerance = getattr(profile, "shares", None) or Tolerance.read(profile)
    return shares
