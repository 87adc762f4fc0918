"""ReuseSession as code that was written for InferenceSession meets it, and as hostile code does."""

import os
import pickle
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from stillframe import cores, endable_session
from stillframe.cores import ThreadsWarning
from stillframe.errors import ModelError, UsageError
from stillframe.native_calls import RunEndedError, native_calls
from stillframe.reuse.runtime.engine import PlanRunner
from stillframe.reuse.session import RecompiledWarning, ReuseSession
from tests import networks
from tests.graph_cases import model
from tests.hang_guard import ends

RNG = np.random.default_rng(0)
Picture = NDArray[np.float32]


def weights(rng: np.random.Generator, *shape: int) -> Picture:
    scale = np.sqrt(np.prod(shape[1:]))
    return (rng.standard_normal(shape) / scale).astype(np.float32)


def net(
    size: tuple[int, ...] = (1, 3, 21, 26), *, heads: bool = False, gate: bool = False
) -> bytes:
    """Conv, a residual block with an optional squeeze-and-excite gate, and an optional head.

    Its weights are always the same, whatever ran before in this process.
    """
    rng = np.random.default_rng(0)
    steps = [
        (
            "Conv",
            ["x", weights(rng, 16, 3, 3, 3), weights(rng, 16)],
            "a",
            {"pads": [1] * 4, "strides": [2] * 2},
        ),
        ("Relu", ["a"], "b", {}),
        ("Conv", ["b", weights(rng, 16, 16, 3, 3), weights(rng, 16)], "c", {"pads": [1] * 4}),
        ("Add", ["b", "c"], "d", {}),
    ]
    if gate:
        steps += [
            ("GlobalAveragePool", ["d"], "g", {}),
            ("Sigmoid", ["g"], "s", {}),
            ("Mul", ["d", "s"], "e", {}),
            ("InstanceNormalization", ["e", weights(rng, 16), weights(rng, 16)], "d2", {}),
        ]
    steps.append(
        ("Conv", ["d2" if gate else "d", weights(rng, 5, 16, 1, 1), weights(rng, 5)], "y", {})
    )
    outputs = ["y"]
    if heads:
        steps.append(("Reshape", ["y", np.array([1, 5, -1])], "r", {}))
        steps.append(("ReduceMax", ["r"], "z", {"axes": [2], "keepdims": 0}))
        outputs.append("z")
    return model(steps, {"x": size}, outputs)


def frame(*size: int) -> Picture:
    return RNG.standard_normal(size or (1, 3, 21, 26)).astype(np.float32)


def reference(source: bytes, picture: Picture) -> list[Picture]:
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    return list(session.run(None, {"x": picture}))


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_run_gives_what_onnx_runtime_gives_frame_after_frame(threads: int, gate: bool) -> None:
    source = net(heads=True, gate=gate)
    picture = frame()
    with ReuseSession(source, threads=threads) as session:
        for number in range(5):
            picture[0, :, number : number + 3, 2 * number : 2 * number + 4] += 0.5
            for got, want in zip(
                session.run(None, {"x": picture}), reference(source, picture), strict=True
            ):
                np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)


def test_results_of_run_are_the_callers_own() -> None:
    with ReuseSession(net(), threads=1) as session:
        (first,) = session.run(["y"], {"x": frame()})
        first_values = first.copy()
        session.run(["y"], {"x": frame()})
        np.testing.assert_array_equal(first, first_values)


def test_outputs_come_in_the_order_that_was_asked_for() -> None:
    with ReuseSession(net(heads=True), threads=1) as session:
        z, y = session.run(["z", "y"], {"x": frame()})
        assert (z.shape, y.shape) == ((1, 5), (1, 5, 11, 13))
        assert [port.name for port in session.get_outputs()] == ["y", "z"]
        assert session.get_inputs()[0].shape == [1, 3, 21, 26]
        assert session.get_inputs()[0].type == "tensor(float)"


def test_an_unchanged_frame_touches_no_layer_and_no_island() -> None:
    with ReuseSession(net(heads=True), threads=1) as session:
        picture = frame()
        _, first = session.step({"x": picture})
        _, second = session.step({"x": picture.copy()})
        assert (first.dense, first.islands_run) == (True, 1)
        assert (second.changed, second.work, second.islands_run) == (0.0, 0.0, 0)


def test_islands_run_on_the_provider_that_was_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    real = endable_session.InferenceSession

    def noted(*arguments: Any, providers: list[Any], **more: Any) -> Any:
        asked.extend(providers)
        return real(*arguments, providers=["CPUExecutionProvider"], **more)

    monkeypatch.setattr(endable_session, "InferenceSession", noted)
    provider = ("CPUExecutionProvider", {"use_arena": "0"})
    with ReuseSession(net(heads=True), threads=1, island_providers=[provider]) as session:
        session.run(None, {"x": frame()})
    assert asked == [provider]
    with pytest.raises(UsageError, match=r"island provider Imaginary: not here; there is .*CPU"):
        ReuseSession(net(heads=True), island_providers=["Imaginary"])


def test_a_change_map_says_where_to_look() -> None:
    picture, changed = frame(), np.zeros((21, 26), np.uint8)
    source = net()
    with ReuseSession(source, threads=1) as session, ReuseSession(source, threads=1) as whole:
        session.step({"x": picture})
        other = picture.copy()
        other[..., 4:6, 7:9] += 1
        other[..., 15, 20] += 1  # outside the map: not even read
        changed[4:6, 7:9] = 1
        outputs, stats = session.step({"x": other}, changed)
        seen = picture.copy()
        seen[..., 4:6, 7:9] += 1
        expected, _ = whole.step({"x": seen}, dense=True)
    assert stats.changed == 4 / (21 * 26)
    np.testing.assert_array_equal(outputs[0], expected[0])


FAULTS = [
    ({"y": frame()}, None, "expected feeds for ['x'], got ['y']"),
    ({"x": frame().astype(np.float64)}, None, "feed 'x': expected float32, got float64"),
    (
        {"x": frame(1, 3, 20, 26)},
        None,
        "feed 'x': expected shape [1, 3, 21, 26], got (1, 3, 20, 26)",
    ),
    (
        {"x": frame()},
        np.ones((5, 5), bool),
        "change map for 'x': expected shape (21, 26), got (5, 5)",
    ),
    (
        {"x": frame()},
        {"q": np.ones((21, 26))},
        "change map for 'q': the model's pictures are ['x']",
    ),
]


@pytest.mark.parametrize(("feeds", "change", "words"), FAULTS)
def test_a_wrong_feed_is_an_error_and_the_session_goes_on(
    feeds: dict[str, Picture], change: object, words: str
) -> None:
    source, picture = net(), frame()
    with ReuseSession(source, threads=1) as session:
        session.step({"x": picture})
        with pytest.raises(UsageError) as caught:
            session.step(feeds, change)
        assert str(caught.value) == words
        picture[0, 0, 3, 3] += 1
        got = session.run(None, {"x": picture})[0]
    np.testing.assert_allclose(got, reference(source, picture)[0], rtol=0, atol=2e-5)


@pytest.mark.parametrize("tolerance", [-0.1, float("nan"), float("inf")])
def test_a_tolerance_is_a_number_from_0(tolerance: float) -> None:
    with pytest.raises(UsageError, match="tolerance: expected a number >= 0"):
        ReuseSession(net(), tolerance=tolerance)


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(ModelError, match="expected an ONNX model"):
        ReuseSession(b"nonsense")


def test_an_unknown_output_is_refused() -> None:
    with ReuseSession(net(), threads=1) as session, pytest.raises(UsageError, match="asked for"):
        session.run(["nothing"], {"x": frame()})


def test_open_shapes_compile_at_the_first_feed_and_again_for_another() -> None:
    source = net((1, 3, -1, -1))
    with ReuseSession(source, threads=1) as session:
        with pytest.raises(UsageError, match="feed it once"):
            _ = session.plan
        assert "shapes are open" in repr(session)
        small, large = frame(1, 3, 13, 15), frame(1, 3, 21, 26)
        np.testing.assert_allclose(
            session.run(None, {"x": small})[0], reference(source, small)[0], rtol=0, atol=2e-5
        )
        with pytest.warns(RecompiledWarning, match="compiling again"):
            got = session.run(None, {"x": large})[0]
        np.testing.assert_allclose(got, reference(source, large)[0], rtol=0, atol=2e-5)


@pytest.mark.parametrize("tolerance", [0.0, 0.1])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_gone_once_the_pixels_are_clean(bad: float, tolerance: float) -> None:
    source, clean = net(gate=True), frame()
    with ReuseSession(source, threads=1, tolerance=tolerance) as session:
        session.step({"x": clean})
        dirty = clean.copy()
        dirty[0, 1, 8, 9] = bad
        session.step({"x": dirty})
        outputs, _ = session.step({"x": clean})
        atol = 2e-5 if tolerance == 0 else 0.5
        np.testing.assert_allclose(outputs[0], reference(source, clean)[0], rtol=0, atol=atol)


def test_after_a_step_that_failed_the_next_one_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    source, first, second = net(heads=True), frame(), frame()
    second[..., 5:, :] = first[..., 5:, :]
    with ReuseSession(source, threads=1) as session:
        session.run(None, {"x": first})
        with monkeypatch.context() as broken:
            broken.setattr(PlanRunner, "_run_island", lambda *_: 1 // 0)
            with pytest.raises(ModelError, match="the model: ZeroDivisionError"):
                session.run(None, {"x": second})
        for got, expected in zip(
            session.run(None, {"x": second}), reference(source, second), strict=True
        ):
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def test_a_feed_may_lie_in_memory_in_any_way() -> None:
    source, picture = net(), frame()
    records = np.zeros(picture.shape, [("flag", np.uint8), ("value", np.float32)])
    records["value"] = picture
    turned = np.ascontiguousarray(picture[:, ::-1, ::-1, ::-1])[:, ::-1, ::-1, ::-1]
    (expected,) = reference(source, picture)
    for feed in (records["value"], turned, np.asfortranarray(picture)):
        with ReuseSession(source, threads=1) as session:
            np.testing.assert_allclose(session.run(None, {"x": feed})[0], expected, atol=1e-5)


def test_reset_forgets_everything() -> None:
    with ReuseSession(net(), threads=1) as session:
        session.step({"x": frame()})
        session.reset()
        assert session.step({"x": frame()})[1].dense


def test_error_does_not_grow_with_time() -> None:
    source = net()
    rng = np.random.default_rng(3)
    picture = frame()
    with ReuseSession(source, threads=1, tolerance=0.1) as session:
        session.step({"x": picture})
        distances = []
        for number in range(10_000):
            y, x = (int(at) for at in rng.integers(0, 18, 2))
            picture[0, :, y : y + 3, x : x + 3] = rng.standard_normal((3, 3, 3))
            outputs, _ = session.step({"x": picture})
            if number % 1000 in (100, 999):
                want = reference(source, picture)[0]
                distances.append(float(np.sqrt(np.mean((outputs[0] - want) ** 2))))
    assert max(distances[-4:]) < 2 * max(distances[:4]) + 1e-6


def test_a_step_allocates_nothing_that_stays_and_no_array_for_a_tensor() -> None:
    with ReuseSession(net((1, 3, 64, 64)), threads=1) as session:
        pictures = [frame(1, 3, 64, 64) for _ in range(2)]
        pictures[1] = pictures[0].copy()
        pictures[1][0, :, 10:14, 10:14] += 1
        for number in range(20):
            session.step({"x": pictures[number % 2]})
        growth, peaks = [], []
        for _ in range(4):  # NumPy keeps some small blocks for later; what leaks does so each time
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            for number in range(200):
                session.step({"x": pictures[number % 2]})
            after, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            growth.append(after - before)
            peaks.append(peak - before)
    assert min(growth) < 4096
    assert max(peaks) < 32_768  # the smallest activation of this network has 81,920 bytes


def test_one_session_serves_several_threads_and_sessions_do_not_mix() -> None:
    sources = [net(), net()]
    pictures = [frame() for _ in range(4)]
    expected = [[reference(source, picture)[0] for picture in pictures] for source in sources]
    failures: list[str] = []
    with ReuseSession(sources[0], threads=2) as one, ReuseSession(sources[1], threads=1) as two:

        def work(thread: int) -> None:
            for turn in range(30):
                which = (thread + turn) % 2
                number = (thread * 7 + turn) % 4
                got = (one, two)[which].run(None, {"x": pictures[number]})[0]
                if not np.allclose(got, expected[which][number], rtol=0, atol=2e-5):
                    failures.append(f"thread {thread}, turn {turn}")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures


FORK = """
import os, sys, warnings
import numpy as np
warnings.simplefilter("ignore")
from stillframe.reuse.session import ReuseSession
session = ReuseSession(sys.argv[1], threads=2)
picture = np.zeros((1, 3, 21, 26), np.float32)
before = session.run(None, {"x": picture})[0]
child = os.fork()
if child == 0:
    picture[0, 0, 5, 5] = 1
    session.run(None, {"x": picture})
    picture[0, 0, 5, 5] = 0
    os._exit(0 if np.array_equal(session.run(None, {"x": picture})[0], before) else 1)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
again = np.array_equal(session.run(None, {"x": picture})[0], before)
print("same" if again and code == 0 else "different")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_child_and_its_parent_both_go_on(tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "net.onnx")
    with open(path, "wb") as file:
        file.write(net())
    done = subprocess.run(
        [sys.executable, "-c", FORK, path], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == "same", done.stderr


FORK_DURING_A_STEP = """
import os, signal, sys, threading, warnings
import numpy as np
warnings.simplefilter("ignore")
from stillframe.reuse.session import ReuseSession
session = ReuseSession(sys.argv[1], threads=2)
rng = np.random.default_rng(0)
pictures = rng.standard_normal((8, 1, 3, 21, 26)).astype(np.float32)
expected = [session.run(None, {"x": picture}) for picture in pictures]
stop = threading.Event()
def work():
    while not stop.is_set():
        for picture in pictures:
            session.run(None, {"x": picture})
thread = threading.Thread(target=work)
thread.start()
def same():
    return all(
        np.array_equal(got, want)
        for picture, outputs in zip(pictures, expected)
        for got, want in zip(session.run(None, {"x": picture}), outputs)
    )
codes = []
for _ in range(4):
    child = os.fork()
    if child == 0:
        signal.alarm(40)  # ends a child that hangs
        os._exit(0 if same() else 1)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
stop.set()
thread.join()
print("same" if same() and not any(codes) else f"different: {codes}")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_child_forked_during_a_step_of_another_thread_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(net(heads=True))
    command = [sys.executable, "-c", FORK_DURING_A_STEP, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.stdout.strip() == "same", done.stderr


@pytest.mark.parametrize("threads", [1, 2])
def test_a_call_after_close_is_refused(threads: int) -> None:
    session = ReuseSession(net(), threads=threads)
    session.run(None, {"x": frame()})
    session.close()
    session.close()
    for call in (session.run, lambda _, feeds: session.step(feeds)):
        with pytest.raises(UsageError, match=r"ReuseSession bytes .* was closed"):
            call(None, {"x": frame()})


def test_close_waits_for_the_step_of_another_thread_and_ends_its_stream() -> None:
    session, steps, errors = ReuseSession(net(), threads=2), [], list[str]()

    def work() -> None:
        try:
            while True:
                steps.append(session.run(None, {"x": frame()}))
        except UsageError as error:
            errors.append(str(error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while len(steps) < 3:
        time.sleep(0.001)
    session.close()
    thread.join(60)
    assert not thread.is_alive()
    assert len(errors) == 1


def endless_run(
    folder: Path, options: onnxruntime.RunOptions | None = None
) -> tuple[ReuseSession, threading.Thread, list[BaseException]]:
    """A session in whose island a thread hangs, and what its call will raise."""
    session = ReuseSession(networks.endless(folder / "endless.onnx"), threads=1)
    errors = list[BaseException]()

    def work() -> None:
        try:
            session.run(None, {"image": np.ones((1, 3, 64, 96), np.float32)}, options)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while not native_calls(thread.ident):
        time.sleep(0.001)
    return session, thread, errors


def test_close_ends_an_island_that_has_no_end(tmp_path: Path) -> None:
    session, thread, errors = endless_run(tmp_path)
    ends(session.close)
    ends(thread.join)
    assert [type(error) for error in errors] == [RunEndedError]
    with pytest.raises(UsageError, match="was closed"):
        session.run(None, {"image": np.zeros((1, 3, 64, 96), np.float32)})


def test_run_options_end_an_island_that_has_no_end(tmp_path: Path) -> None:
    options = onnxruntime.RunOptions()
    options.log_severity_level = 4
    session, thread, errors = endless_run(tmp_path, options)
    options.terminate = True
    ends(thread.join)
    assert [type(error) for error in errors] == [RunEndedError]
    dark = {"image": np.zeros((1, 3, 64, 96), np.float32)}
    with session:  # which goes on
        assert float(session.run(["scores"], dark)[0][0]) == 0.0


@pytest.mark.parametrize("asked", ["threads", "options"])
def test_more_threads_than_cores_are_bounded(asked: str) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 5000
    arguments = {"threads": 5000} if asked == "threads" else {"sess_options": options}
    with pytest.warns(ThreadsWarning, match=r"5000 threads were requested .* core.*: \d+ run"):
        session = ReuseSession(net(), **arguments)
    with session:
        assert session._workers.count == cores.most_threads()


def test_a_session_is_not_pickled() -> None:
    with ReuseSession(net(), threads=1) as session, pytest.raises(TypeError, match="each process"):
        pickle.dumps(session)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system pins no threads")
def test_workers_are_pinned_where_they_were_asked_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "most_threads", lambda: 4)
    cpu = min(os.sched_getaffinity(0))
    with ReuseSession(net(), threads=3, cpus=[cpu]) as session:
        session.run(None, {"x": frame()})
        names = {thread.name: thread for thread in threading.enumerate()}
        workers = [thread for name, thread in names.items() if name.startswith("stillframe-")]
        assert len(workers) >= 2
        for thread in workers[-2:]:
            assert thread.native_id is not None
            assert os.sched_getaffinity(thread.native_id) == {cpu}


def test_memory_is_reported_beside_what_it_could_have_been() -> None:
    with ReuseSession(net(), threads=1) as session:
        memory = session.memory
    assert memory.persistent + memory.transient <= memory.every_activation * 2
    assert memory.lower_bound <= memory.transient <= memory.lower_bound * 1.05 + 64
    assert memory.total > memory.weights > 0


def test_a_memory_budget_is_kept_and_changes_no_result() -> None:
    source = net()
    pictures = [frame() for _ in range(2)]
    pictures += [pictures[1].copy() for _ in range(4)]
    for number, picture in enumerate(pictures):
        picture[0, :, 5:9, number : number + 4] += 1
    with (
        ReuseSession(source, threads=1, memory_budget=1 << 30) as roomy,
        ReuseSession(source, threads=1, memory_budget=0) as narrow,
    ):
        most, least = roomy.memory, narrow.memory
        assert least.persistent + least.transient < most.persistent + most.transient
        assert not roomy.notes
        assert any("which is more than the memory budget of 0" in note for note in narrow.notes)
        for picture in pictures:
            want, got = roomy.run(None, {"x": picture}), narrow.run(None, {"x": picture})
            assert all(np.array_equal(*pair) for pair in zip(want, got, strict=True))
    with pytest.raises(UsageError, match="memory budget: expected bytes >= 0, got -1"):
        ReuseSession(net(), memory_budget=-1)


def test_a_picture_that_memory_cannot_hold_is_an_error_and_the_session_goes_on() -> None:
    source, picture = net((1, 3, "h", "w")), frame()  # type: ignore[arg-type]
    endless = np.broadcast_to(np.float32(0), (1, 3, 1 << 20, 1 << 20))
    with ReuseSession(source, threads=1) as session:
        with pytest.raises(ModelError, match=r"takes [\d.e+]+ GB; [\d.]+ GB can be used"):
            session.run(None, {"x": endless})
        np.testing.assert_allclose(
            session.run(None, {"x": picture})[0], reference(source, picture)[0], atol=2e-5
        )


SECOND_START = """
import sys
import numpy as np
from stillframe import ReuseSession
with ReuseSession(sys.argv[1], threads=1) as session:
    for value in (0, 0, 1):
        session.run(None, {"x": np.full((1, 3, 21, 26), value, np.float32)})
print("numba" in sys.modules, "scipy" in sys.modules)
"""


def test_a_second_start_compiles_nothing_and_loads_no_compiler(tmp_path: Path) -> None:
    """It uses the cache of all tests, so that what they have compiled need not be compiled here."""
    (tmp_path / "net.onnx").write_bytes(net())
    printed = []
    for _ in range(2):
        ran = subprocess.run(
            [sys.executable, "-c", SECOND_START, str(tmp_path / "net.onnx")],
            capture_output=True,
            text=True,
            check=True,
        )
        printed.append(ran.stdout)
    assert printed[1] == "False False\n"


def test_where_a_small_change_reaches_nearly_everything_steps_become_dense() -> None:
    picture = frame()
    with ReuseSession(net(gate=True), threads=1, break_even=0.1) as session:
        session.step({"x": picture})
        seen = []
        for number in range(6):
            picture[0, :, 3:9, number : number + 9] += 1
            seen.append(session.step({"x": picture})[1].dense)
    assert seen[0] is False  # tried first, and found to redo most of the network
    assert all(seen[1:])


def test_it_can_stand_in_the_place_of_inference_session(monkeypatch: pytest.MonkeyPatch) -> None:
    source, picture = net(heads=True), frame()
    expected = reference(source, picture)
    monkeypatch.setattr(onnxruntime, "InferenceSession", ReuseSession)
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    assert isinstance(session, ReuseSession)
    for got, want in zip(session.run(None, {"x": picture}), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)
    assert session.get_modelmeta().graph_name == "case"
    session.close()
