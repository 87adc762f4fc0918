"""Processors: reading the kernel's files, parsing texts, pinning threads."""

import json
import os
import threading
from pathlib import Path

import pytest

from stillframe.cores import allowed_cores, cpu_quota
from stillframe.errors import UsageError
from stillframe.pipeline import cli
from stillframe.pipeline.executor.hardware.affinity import cores_of, pin_thread, pinned_thread
from stillframe.pipeline.executor.hardware.microbenchmark import measure_processor
from stillframe.pipeline.executor.hardware.processors import AUTO, Machine, Processor
from stillframe.pipeline.executor.hardware.topology import cpu_list, parse_cpu_list, read_cores


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


# --- the kernel's files --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "cores"), [("0", {0}), ("0-3,6", {0, 1, 2, 3, 6}), ("5,1-2", {1, 2, 5})]
)
def test_cpu_lists_are_parsed_and_formatted(text: str, cores: set[int]) -> None:
    assert parse_cpu_list(text) == cores
    assert parse_cpu_list(cpu_list(cores)) == cores


def test_malformed_cpu_lists_are_refused() -> None:
    for text in ("", "a", "3-1", "1--2"):
        with pytest.raises(ValueError, match=r"[a-z]"):
            parse_cpu_list(text)


def test_topology_is_read_with_siblings_packages_and_little_cores(tmp_path: Path) -> None:
    files = {"online": "0-3"}
    for core, (mhz, twins, package) in enumerate(
        [(4_600_000, "0-1", 0), (4_600_000, "0-1", 0), (4_400_000, "2", 0), (3_000_000, "3", 1)]
    ):
        files[f"cpu{core}/cpufreq/cpuinfo_max_freq"] = str(mhz)
        files[f"cpu{core}/topology/thread_siblings_list"] = twins
        files[f"cpu{core}/topology/physical_package_id"] = str(package)
    cores = read_cores(write(tmp_path, files), frozenset({0, 1, 3}))
    assert [core.siblings for core in cores] == [(0, 1), (0, 1), (2,), (3,)]
    assert [core.little for core in cores] == [False, False, False, True]
    assert [core.most_mhz for core in cores] == [4600, 4600, 4400, 3000]
    assert [core.package for core in cores] == [0, 0, 0, 1]
    assert [core.allowed for core in cores] == [True, True, False, True]


def test_little_cores_are_recognised_by_capacity_without_a_frequency(tmp_path: Path) -> None:
    files = {"online": "0-1", "cpu0/cpu_capacity": "1024", "cpu1/cpu_capacity": "446"}
    assert [core.little for core in read_cores(write(tmp_path, files))] == [False, True]


def test_without_sysfs_the_cores_are_those_of_the_process(tmp_path: Path) -> None:
    cores = read_cores(tmp_path / "nothing", frozenset({0, 5}))
    assert [(core.number, core.allowed) for core in cores] == [(0, True), (5, True)]


V2 = "31 23 0:27 / {root} rw - cgroup2 cgroup2 rw"
V1 = "32 23 0:28 / {root} rw - cgroup cgroup rw,cpu,cpuacct"


@pytest.mark.parametrize(
    ("mount", "group", "files", "cores"),
    [
        (V2, "0::/", {"cpu.max": "max 100000"}, None),
        (V2, "0::/", {"cpu.max": "150000 100000"}, 1.5),
        (V2, "0::/a/b", {"a/cpu.max": "50000 100000", "a/b/cpu.max": "200000 100000"}, 0.5),
        (V2, "0::/not/seen/from/here", {"cpu.max": "300000 100000"}, 3.0),
        (V1, "4:cpu,cpuacct:/", {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"}, None),
        (V1, "4:cpu:/a", {"a/cpu.cfs_quota_us": "25000", "a/cpu.cfs_period_us": "50000"}, 0.5),
        (V1, "4:memory:/", {"cpu.cfs_quota_us": "25000", "cpu.cfs_period_us": "50000"}, None),
    ],
)  # fmt: skip
def test_the_tightest_cgroup_limit_counts(
    mount: str, group: str, files: dict[str, str], cores: float | None, tmp_path: Path
) -> None:
    root = write(tmp_path / "groups", files)
    process = write(tmp_path / "process", {"cgroup": group, "mountinfo": mount.format(root=root)})
    assert cpu_quota(process) == cores


def test_a_quota_bounds_the_capacity() -> None:
    cores = read_cores(Path("/nowhere"), frozenset({0, 1, 2, 3}))
    assert Machine(cores).capacity == 4
    assert Machine(cores, quota=1.5).capacity == 1.5
    assert Machine(cores, quota=9.0).capacity == 4


# --- texts ---------------------------------------------------------------------------------------

HERE = Machine(
    read_cores(Path("/nowhere"), frozenset({0, 1, 2, 3})),
    providers=("CUDAExecutionProvider", "CPUExecutionProvider"),
    openvino=("CPU",),
)


@pytest.mark.parametrize(
    ("text", "processor"),
    [
        ("cpu:0", Processor.on(0)),
        ("cpu:0-2", Processor.on(0, 1, 2)),
        ("cpu:0,2-3", Processor.on(0, 2, 3)),
        ("openvino:CPU", Processor("openvino", device="CPU")),
        ("cuda:0", Processor("cuda", device="0")),
        ("auto", AUTO),
    ],
)
def test_a_text_names_a_processor_and_back(text: str, processor: Processor) -> None:
    assert HERE.parse(text) == processor
    assert str(processor) == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cpu:9", "core 9 is not there or not .*; there is cpu:0-3, openvino:CPU, cuda:0, auto"),
        ("cpu:2-8", "core 4-8 is not there"),
        ("cpu:3-1", "the first is above the last"),
        ("openvino:NPU", "not here; there is cpu:0-3, openvino:CPU"),
        ("dml:0", "not here"),
        ("cpu", "not here"),
        ("", "not here"),
    ],
)  # fmt: skip
def test_an_unknown_processor_is_refused_with_those_there_are(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        HERE.parse(text)


# --- pinning, against the kernel's own report ----------------------------------------------------


def test_a_pinned_thread_is_where_the_kernel_says_it_is() -> None:
    core = min(allowed_cores())
    before = cores_of(threading.get_native_id())
    with pinned_thread(frozenset({core})) as result:
        assert result.applied
        assert result.cores == {core} == cores_of(threading.get_native_id())
        assert os.sched_getaffinity(0) == {core}
    assert cores_of(threading.get_native_id()) == before


def test_another_thread_is_pinned_by_its_number() -> None:
    core, leave, started = max(allowed_cores()), threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: (started.set(), leave.wait()))
    thread.start()
    started.wait()
    try:
        assert thread.native_id is not None
        assert pin_thread(frozenset({core}), thread.native_id).applied
        assert cores_of(thread.native_id) == {core}
        assert cores_of(threading.get_native_id()) != {core} or len(allowed_cores()) == 1
    finally:
        leave.set()
        thread.join()


def test_a_denied_pin_leaves_the_thread_and_is_noted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = cores_of(threading.get_native_id())

    def denied(thread: int, cores: frozenset[int]) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setaffinity", denied)
    result = pin_thread(frozenset({0}))
    assert not result.applied
    assert result.cores == before
    assert result.note == (
        "core 0 could not be had (operation not permitted); the thread stays where it was"
    )


def test_a_pin_that_the_kernel_ignored_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pin is judged by what the kernel reports, not by what was requested."""
    monkeypatch.setattr(os, "sched_setaffinity", lambda thread, cores: None)
    missing = frozenset({max(allowed_cores()) + 1})
    result = pin_thread(missing)
    assert not result.applied
    assert "the kernel gave" in result.note


def test_a_core_that_does_not_exist_is_reported() -> None:
    result = pin_thread(frozenset({4000}))
    assert not result.applied
    assert "core 4000 could not be had" in result.note


def test_a_system_without_affinity_states_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity")
    assert pin_thread(frozenset({0})).note == "this system does not let threads be pinned"


# --- measuring, and the command ------------------------------------------------------------------


def test_a_core_is_measured_on_that_core() -> None:
    core = min(allowed_cores())
    seen = measure_processor(Processor.on(core), seconds=0.01)
    assert seen.gflops > 0
    assert seen.gigabytes_s > 0
    assert not seen.note
    assert not any(t.name == "stillframe-measure" for t in threading.enumerate())


def test_a_device_that_does_not_answer_is_reported() -> None:
    with pytest.raises(UsageError, match="processor openvino:NONE: it does not work"):
        measure_processor(Processor("openvino", device="NONE"), seconds=0.01)


def test_the_devices_command_lists_all_processors(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.status(["devices", "--json", "--no-measure"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert {core["number"] for core in report["cores"] if core["allowed"]} == allowed_cores()
    assert "CPUExecutionProvider" in report["onnxruntime_providers"]
    assert [row["name"] for row in report["processors"]][: len(allowed_cores())] == [
        f"cpu:{core}" for core in sorted(allowed_cores())
    ]
    assert cli.status(["devices", "--no-measure"]) == 0
    assert "usable:" in capfd.readouterr().out
