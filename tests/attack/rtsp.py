"""Runs `stillframe run` on an RTSP camera that fails on command, and checks what it reports.

    python -m tests.attack rtsp --minutes 40
    python -m tests.attack rtsp --minutes 10 --scenario frozen
    python -m tests.attack rtsp --minutes 30 --scenario soak

Each scenario is a cycle of steps. After each step three readers note when the new state can be
seen: in the JSONL file, on standard error and in the metrics. Results that are written while the
camera gives nothing new must have an age that says so. It needs Debian's GStreamer RTSP server, see
`missing`.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Self

import psutil

from tests.attack.rtsp_report import Report, Sample, Sight, Sights, Step, judge
from tests.hostile.servers import free_port

CAMERA = Path(__file__).with_name("rtsp_camera.py")
SYSTEM_PYTHON = "/usr/bin/python3"
POLL_S = 0.05
SCRAPE_S = 0.2
SAMPLE_S = 5.0


def missing() -> str:
    """Why the camera cannot run here; empty if it can."""
    if not os.access(SYSTEM_PYTHON, os.X_OK):
        return f"no {SYSTEM_PYTHON}"
    answer = subprocess.run(
        [SYSTEM_PYTHON, str(CAMERA), "--check"], capture_output=True, text=True, check=False
    )
    if answer.returncode == 0:
        return ""
    return f"no GStreamer RTSP server: {answer.stderr.strip().rpartition(chr(10))[2]}"


class Camera:
    """The RTSP server as a process of its own, which can be killed and started again."""

    def __init__(self, port: int, size: str, rate: int) -> None:
        self.url = f"rtsp://127.0.0.1:{port}/camera"
        self._arguments = [SYSTEM_PYTHON, str(CAMERA), str(port), size, str(rate)]
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Returns once it answers connections."""
        self._process = subprocess.Popen(
            self._arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._expect("ready")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def tell(self, command: str) -> None:
        """One of the commands of rtsp_camera.py."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        self._expect("ok")

    def _expect(self, word: str) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if line != word:
            raise RuntimeError(f"the camera answered {line!r} where {word!r} was expected")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


SCENARIOS: Mapping[str, tuple[Step, ...]] = MappingProxyType(
    {
        "killed": (Step("kill", 8.0, "lost"), Step("start", 12.0, "running")),
        "stalled": (Step("stall", 20.0, "stalled"), Step("play", 12.0, "running")),
        "frozen": (Step("freeze", 60.0, "frozen"), Step("play", 15.0, "running")),
        "flapping": (Step("kill", 4.0, "lost"), Step("start", 6.0, "running")),
        "outage": (Step("kill", 150.0, "lost"), Step("start", 30.0, "running")),
        "soak": (),
    }
)


class Observed(Sights):
    """A `stillframe run`, and three readers of what it reports."""

    def __init__(self, url: str, model: str, folder: Path, every_output: bool) -> None:
        super().__init__(folder)
        self.port = free_port()
        arguments = ["run", url, "--model", model, "--jsonl", str(folder / "out.jsonl")]
        arguments += ["--summary-json", str(folder / "summary.json")]
        arguments += ["--metrics-json", str(folder / "metrics.json")]
        arguments += ["--metrics-port", str(self.port)]
        if every_output:
            arguments += ["--out", str(folder / "out.mp4"), "--csv", str(folder / "out.csv")]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "stillframe", *arguments],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self._over = threading.Event()
        readers = (self._read_errors, self._read_rows, self._read_metrics)
        self._threads = [threading.Thread(target=reader, daemon=True) for reader in readers]
        for thread in self._threads:
            thread.start()

    def end(self) -> int:
        """Ask it to end as Ctrl-C does; -> its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
        finally:
            self._over.set()
            for thread in self._threads:
                thread.join(5)
            if self.process.stderr is not None:
                self.process.stderr.close()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(Sight(time.time(), line.decode(errors="replace").rstrip()))

    def _read_rows(self) -> None:
        path, rest, at, last = self.folder / "out.jsonl", b"", 0, time.time()
        while not self._over.wait(POLL_S):
            if not path.exists():
                continue
            with open(path, "rb") as file:
                file.seek(at)
                now, data = time.time(), file.read()
            at += len(data)
            *whole, rest = (rest + data).split(b"\n")
            self.rows += [Sight(time.time(), json.loads(line), last) for line in whole]
            last = now

    def _read_metrics(self) -> None:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while not self._over.wait(SCRAPE_S):
            asked = time.time()
            try:
                with opener.open(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
                    text = answer.read().decode()
            except (OSError, urllib.error.URLError):
                continue
            state = re.search(r'source_state\{state="(\w+)"\} 1\.0', text)
            if state and (not self.states or self.states[-1].value != state[1]):
                self.states.append(Sight(time.time(), state[1]))
            age = re.search(r'age_seconds\{quantile="0\.50?"\} (\S+)', text)
            if age:
                self.ages.append(Sight(time.time(), float(age[1]), asked))


def attack_camera(
    scenario: str,
    minutes: float,
    model: str,
    size: str = "160x96",
    rate: int = 15,
    progress: Callable[[str], None] = lambda text: None,
) -> Report:
    """Repeat the scenario's steps for so long and report on them."""
    report = Report(scenario, minutes)
    steps = SCENARIOS[scenario]
    with (
        tempfile.TemporaryDirectory() as name,
        Camera(free_port(), size, rate) as camera,
    ):
        run = Observed(camera.url, model, Path(name), every_output=scenario == "soak")
        try:
            _wait_for_results(run, 60.0)
            began = time.time()
            taken: list[tuple[float, float, Step]] = []
            while time.time() < began + minutes * 60 and run.process.poll() is None:
                for step in steps:
                    when = _act(camera, step.action)
                    _pass_time(run, report, began, step.seconds)
                    taken.append((when, time.time(), step))
                    progress(f"{time.time() - began:7.1f} s: {step.action}")
                if not steps:
                    _pass_time(run, report, began, SAMPLE_S)
            report.minutes = (time.time() - began) / 60
            if run.process.poll() is not None:
                report.faults.append(f"the run ended by itself, code {run.process.returncode}")
        finally:
            code = run.end()
        if code != 130:
            report.faults.append(f"exit code {code} after Ctrl-C; 130 was expected")
        judge(run, report, taken)
    return report


def _wait_for_results(run: Observed, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not run.frames():
        if time.monotonic() > end or run.process.poll() is not None:
            text = "\n".join(line.value for line in run.lines)
            raise RuntimeError(f"the run wrote no result:\n{text}")
        time.sleep(POLL_S)
    time.sleep(3.0)


def _act(camera: Camera, action: str) -> float:
    """-> when the state began, by the wall clock: before a fault, after a repair."""
    before = time.time()
    if action == "kill":
        camera.kill()
        return before
    if action == "start":
        camera.start()
    else:
        camera.tell(action)
    return time.time() if action in ("start", "play") else before


def _pass_time(run: Observed, report: Report, began: float, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left_s := end - time.monotonic()) > 0 and run.process.poll() is None:
        time.sleep(min(left_s, SAMPLE_S))
        try:
            process = psutil.Process(run.process.pid)
            report.samples.append(
                Sample(
                    time.time() - began,
                    process.memory_info().rss,
                    process.num_threads(),
                    process.num_fds(),
                )
            )
        except psutil.Error:
            return
