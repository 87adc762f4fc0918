"""The command line as a shell sees it: exit codes, one line for each fault, quick help."""

import inspect
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer

import stillframe
from stillframe import errors
from stillframe.pipeline import cli
from stillframe.pipeline.cli import options
from stillframe.pipeline.cli.signals import Interrupted, Stopping, raise_at_once
from stillframe.pipeline.filter.filter import Filter
from stillframe.pipeline.inference.settings import Settings

COMMAND = [sys.executable, "-m", "stillframe"]
COMMANDS = ("run", "filter", "probe", "explain", "bench", "sweep", "tune", "devices")


def shell(*arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, **settings)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], int]:
    """Runs a command line whose command raises what is given; returns the exit code."""

    def run(error: BaseException) -> int:
        def command() -> None:
            raise error

        registered = list(cli.app.registered_commands)
        cli.app.command("fail")(command)
        try:
            return cli.status(["fail"])
        finally:
            cli.app.registered_commands[:] = registered

    monkeypatch.delenv(cli.DEBUG, raising=False)
    return run


CODES = [
    (errors.StillframeError("a\nb"), 1),
    (errors.UsageError("expected x, got y"), 2),
    (errors.SourceError("cam: gone"), 3),
    (errors.ModelError("m.onnx: broken"), 4),
    (errors.SinkError("o.mp4: no room"), 5),
    (errors.QualityError("0.9 is below 0.95"), 6),
    (errors.StageError("stage infer: it hangs"), 7),
    (errors.CertificateError("--fail-under 0.98 is not proven"), 8),
]


@pytest.mark.parametrize(("error", "code"), CODES, ids=lambda value: type(value).__name__)
def test_each_error_has_its_code_and_is_one_line(
    error: errors.StillframeError,
    code: int,
    failing: Callable[[BaseException], int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert failing(error) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == f"stillframe: error: {' '.join(str(error).split())}\n"


def test_every_error_class_is_in_the_table_of_codes() -> None:
    classes = {errors.StillframeError, *errors.StillframeError.__subclasses__()}
    assert {type(error) for error, _ in CODES} == classes
    assert len({code for _, code in CODES}) == len(CODES)


def test_a_fault_of_ours_is_one_line_that_says_how_to_report_it(
    failing: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert failing(ZeroDivisionError("of nothing")) == 1
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert shown.startswith("stillframe: error: ZeroDivisionError: of nothing; ")
    assert "--debug" in shown


def test_debug_shows_the_traceback(
    failing: Callable[[BaseException], int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(cli.DEBUG, "1")
    assert failing(ZeroDivisionError("of nothing")) == 1
    shown = capsys.readouterr().err
    assert "Traceback (most recent call last)" in shown
    assert shown.rstrip().splitlines()[-1].startswith("stillframe: error: ZeroDivisionError")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["--nonsense"], "No such option: --nonsense\n"),
        (["run", "--qualty", "1"], "No such option: --qualty (did you mean '--quality'?)\n"),
        (["filter", "--mtrix", "1"], "No such option: --mtrix (did you mean '--matrix'?)\n"),
        (["rum"], "No such command 'rum'. Did you mean 'run'?"),
        (["run", "--every", "0"], "--every"),
        (
            ["run", "--reuse", "some"],
            "'some' is not one of 'auto', 'off', 'frame', 'layer', 'exact'",
        ),
        (["run", "a", "b"], "unexpected extra argument"),
        (["run", "--confidence", "2"], "--confidence"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_one_line_and_2(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.status(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("stillframe: error: ")
    assert says in shown.err
    assert shown.err.count("\n") == 1


def test_help_and_version_go_to_standard_output() -> None:
    assert shell("--version").stdout == f"stillframe {stillframe.__version__}\n"
    plain = shell()
    assert plain.returncode == 0
    assert plain.stdout == shell("--help").stdout
    for command in ("run", "probe", "models", "samples"):
        assert command in plain.stdout
    assert "Exit codes: 0 done" in plain.stdout


@pytest.mark.parametrize(("closed", "code"), [(">&-", 5), ("2>&-", 0), ("<&-", 0)])
def test_a_closed_stream_loses_no_result_unseen(closed: str, code: int) -> None:
    line = f'"{sys.executable}" -m stillframe models list {closed}'
    completed = subprocess.run(["sh", "-c", line], capture_output=True, text=True)
    assert completed.returncode == code
    assert ("standard output is closed" in completed.stderr) == (code == 5)
    assert ("centerface" in completed.stdout) == (code == 0)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize("buffered", ["", "1"])
@pytest.mark.parametrize(
    ("command", "code"),
    [("models list >/dev/full", 5), ("--version >/dev/full", 5), ("nonsense 2>/dev/full", 2)],
)
def test_a_full_output_is_an_output_fault(command: str, code: int, buffered: str) -> None:
    completed = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -m stillframe {command}'],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": buffered},
    )
    assert completed.returncode == code
    assert ("No space left on device" in completed.stderr) == (code == 5)


def test_commands_share_the_library_s_defaults() -> None:
    assert (Settings().tolerance, Settings().quality) == (options.TOLERANCE, options.QUALITY)
    defaults = {
        name: {each.name: each.default for each in command.params}
        for name, command in typer.main.get_command(cli.app).commands.items()  # type: ignore[attr-defined]
        if name in ("run", "filter")
    }
    for option in ("reuse", "max_age", "every", "between", "threads"):
        assert defaults["run"][option] == defaults["filter"][option]
        library = inspect.signature(Filter).parameters
        assert (
            library[{"max_age": "max_age_s"}.get(option, option)].default
            == (defaults["filter"][option])
        )


def test_the_console_script_is_the_module() -> None:
    script = os.path.join(os.path.dirname(sys.executable), "stillframe")
    completed = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert completed.stdout == shell("--version").stdout


HEAVY = ("av", "cv2", "numba", "numpy", "onnx", "onnxruntime", "yaml")
LIGHT = tuple(
    f"stillframe.{name}"
    for name in (
        "cache_dir", "cores", "errors", "escaping", "extras", "names", "native_calls",
        "pipeline.cli", "pipeline.media.redaction",
    )
)  # fmt: skip
"""Those of our own modules, and what is below them, that asking for help may load."""


HELPED: list[list[str]] = [[], *([name] for name in COMMANDS), ["models", "list"]]
ASK = """
import json, os, sys
from stillframe.pipeline import cli

for command in json.loads(sys.argv[1]):
    if not os.fork():
        cli.status([*command, "--help"])
        print("LOADED", json.dumps(sorted(sys.modules)), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""
"""Asks each command for help, in a process that has loaded what all of them load and no more."""


@pytest.fixture(scope="module")
def loaded_by() -> dict[tuple[str, ...], list[str]]:
    """Names of all modules that are loaded once a command has printed its help."""
    completed = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(HELPED)], capture_output=True, text=True, check=True
    )
    lines = [line for line in completed.stdout.splitlines() if line.startswith("LOADED")]
    modules = [json.loads(line.removeprefix("LOADED")) for line in lines]
    return {tuple(command): names for command, names in zip(HELPED, modules, strict=True)}


@pytest.mark.parametrize("command", HELPED)
def test_help_loads_nothing_heavy(
    command: list[str], loaded_by: dict[tuple[str, ...], list[str]]
) -> None:
    """Counts modules: what help has to load is what it has to be waited for."""
    loaded = loaded_by[tuple(command)]
    heavy = [name for name in loaded if name.split(".")[0] in HEAVY]
    ours = [name for name in loaded if name.startswith("stillframe.")]
    for package in ("stillframe.pipeline", "stillframe.pipeline.media"):  # empty themselves
        ours.remove(package)
    more = [n for n in ours if not any(n == each or n.startswith(f"{each}.") for each in LIGHT)]
    assert not heavy + more, "asking for help waits for these"
    assert len(ours) < 40
    assert len(loaded) < 600


def test_importing_the_package_loads_nothing_else() -> None:
    code = "import sys, stillframe; print([m for m in sys.modules if m.startswith('stillframe.')])"
    completed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert completed.stdout == "[]\n"


def test_completion_is_offered() -> None:
    environment = {**os.environ, cli.COMPLETION: "complete_bash"}
    environment |= {"COMP_WORDS": "stillframe ru", "COMP_CWORD": "1"}
    completed = shell(env=environment)
    assert "run" in completed.stdout.split()


# --- signals -------------------------------------------------------------------------------------


@pytest.fixture
def handlers() -> Iterator[None]:
    """Puts the test runner's own handlers back."""
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    raise_at_once()
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def send(signum: int) -> None:
    """To this process. Where it has more threads the signal may come a moment later."""
    os.kill(os.getpid(), signum)
    time.sleep(0.05)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_at_once_with_its_code(
    signum: int, code: int, failing: Callable[[BaseException], int]
) -> None:
    with pytest.raises(Interrupted) as caught:
        send(signum)
    assert caught.value.exit_code == code
    assert failing(Interrupted(signum)) == code


def block(stops: list[int], *signals: int, by: bool = True) -> None:
    """A block that gets these signals and notes how often it was stopped, and that it ended."""
    with Stopping() as stopping:
        if by:
            stopping.by(lambda: stops.append(1))
        for signum in signals:
            send(signum)
        stops.append(0)


@pytest.mark.usefixtures("handlers")
def test_the_first_signal_stops_cleanly_and_the_second_at_once() -> None:
    stops: list[int] = []
    with pytest.raises(Interrupted, match="SIGTERM"):
        block(stops, signal.SIGTERM)
    assert stops == [1, 0]
    with pytest.raises(Interrupted, match="SIGINT"):
        block(stops, signal.SIGTERM, signal.SIGINT)
    assert stops == [1, 0, 1]


@pytest.mark.usefixtures("handlers")
def test_before_there_is_anything_to_stop_a_signal_ends_at_once() -> None:
    stops: list[int] = []
    with pytest.raises(Interrupted):
        block(stops, signal.SIGINT, by=False)
    assert stops == []
    with pytest.raises(Interrupted):  # and the handlers from before are back
        send(signal.SIGINT)


@pytest.mark.usefixtures("handlers")
def test_a_failure_while_stopping_is_what_is_reported() -> None:
    def fail() -> None:
        with Stopping() as stopping:
            stopping.by(lambda: None)
            send(signal.SIGINT)
            raise errors.SinkError("no room")

    with pytest.raises(errors.SinkError, match="no room"):
        fail()
