"""`stillframe`: the command line, one module for each command; here faults become exit codes.

    0 done, also when the reader of a pipe went away    1 a fault of stillframe itself
    2 usage   3 source   4 model   5 output   6 quality floor not met   7 a stage
    8 the run did not prove --fail-under
    130 Ctrl-C, 143 SIGTERM, each after everything was closed properly

A stage or a run of a model that hangs ends with the same codes: it is ended, or left behind.

Standard output carries data only; everything for people goes to standard error.
"""

import contextlib
import errno
import io
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NoReturn, TextIO

import typer

import stillframe
from stillframe.cache_dir import CacheWarning
from stillframe.cores import ThreadsWarning
from stillframe.errors import CardWarning, SinkError, StillframeError
from stillframe.names import RenamedWarning, suggestion
from stillframe.native_calls import hanging
from stillframe.pipeline.cli import cache, models, printing, renamed, samples, signals
from stillframe.pipeline.cli.bench import bench
from stillframe.pipeline.cli.bench_placement import bench_placement
from stillframe.pipeline.cli.bench_suite import bench_suite
from stillframe.pipeline.cli.devices import devices
from stillframe.pipeline.cli.explain import explain
from stillframe.pipeline.cli.filter import filter_
from stillframe.pipeline.cli.probe import probe
from stillframe.pipeline.cli.run import run
from stillframe.pipeline.cli.sweep import sweep
from stillframe.pipeline.cli.tune import tune
from stillframe.pipeline.media.redaction import mask

INTERNAL_FAULT = 1
USAGE_FAULT = 2
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
REPORT = "this is a fault of stillframe: please report it with the traceback that --debug shows"
DEBUG = "STILLFRAME_DEBUG"
COMPLETION = "_STILLFRAME_COMPLETE"
TWO_WORDS = {
    ("bench", "placement"): "bench-placement",
    ("bench", "suite"): "bench-suite",
}

app = typer.Typer(
    name="stillframe",
    help="Run any ONNX model on a video and compute only what changed since the last frame.",
    epilog="Exit codes: 0 done, 1 a fault of stillframe, 2 usage, 3 source, 4 model, 5 output, "
    "6 quality floor not met, 7 a stage of the pipeline, 8 --fail-under not proven, 130 Ctrl-C, "
    "143 SIGTERM.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(run)
app.command()(probe)
app.command()(explain)
app.command()(bench)
app.command("bench-placement", hidden=True)(bench_placement)
app.command("bench-suite", hidden=True)(bench_suite)
app.command()(sweep)
app.command()(tune)
app.command("filter")(filter_)
app.command()(devices)
app.add_typer(models.app, name="models")
app.add_typer(samples.app, name="samples")
app.add_typer(cache.app, name="cache")


@app.callback()
def stillframe_(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar=DEBUG, help="Show tracebacks of faults.")
    ] = False,
) -> None:
    """Options of every command."""
    if debug:
        os.environ[DEBUG] = "1"
    if version:
        printing.data(f"stillframe {stillframe.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        printing.data(context.get_help())
        raise typer.Exit


def main() -> NoReturn:
    """The console script."""
    if COMPLETION in os.environ:  # a shell asks for completions
        app()
    signals.raise_at_once()
    _fill_closed_streams()
    signals.Watchdog()
    code = status(sys.argv[1:])
    if hanging():
        signals.leave(code)
    sys.exit(code)


def status(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; faults become one line on standard error."""
    # The base class of all that can be wrong with a command line; Typer does not export it.
    usage_error: Any = typer.BadParameter.__mro__[2]
    try:
        with _warnings_shown():
            code = _run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _leave(sys.stdout)
        return 0
    except signals.Interrupted as interruption:
        return interruption.exit_code
    except KeyboardInterrupt:
        return 130
    except StillframeError as error:
        return _status_of(error, arguments)
    except usage_error as error:
        _complain(_usage_message(error), error, arguments)
        return USAGE_FAULT
    except Exception as error:
        fault = _output_fault(error)
        if fault is not None:
            return _status_of(fault, arguments)
        _complain(f"{type(error).__name__}: {error}; {REPORT}", error, arguments)
        return INTERNAL_FAULT


def _run(arguments: Sequence[str]) -> int:
    command = typer.main.get_command(app)
    try:
        current = renamed.current_arguments(_routed(arguments))
        with command.make_context("stillframe", current) as context:
            command.invoke(context)
    except typer.Exit as stop:
        return stop.exit_code
    return 0


@contextlib.contextmanager
def _warnings_shown() -> Iterator[None]:
    """Inside, old names, caches that cannot be written and too many threads are a line each."""
    shown: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, ThreadsWarning):
            if str(message) not in shown:  # each backend warns
                printing.complaint("warning", str(message))
            shown.add(str(message))
        elif issubclass(category, (RenamedWarning, CacheWarning, CardWarning)):
            printing.complaint("warning", str(message))
        else:
            show_others(message, category, *place, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("always", RenamedWarning)
        warnings.simplefilter("always", ThreadsWarning)
        warnings.simplefilter("always", CardWarning)
        show_others, warnings.showwarning = warnings.showwarning, show
        yield


def _usage_message(error: Any) -> str:
    """What is wrong with the command line; of an unknown option with the nearest that there is."""
    option = getattr(error, "option_name", None)
    if option is None or getattr(error, "possibilities", None) is None:
        return str(error.format_message())
    command = error.ctx.command if error.ctx else None
    known = [name for each in getattr(command, "params", ()) for name in each.opts]
    return f"No such option: {option}{suggestion(option, known)}"


def _output_fault(error: Exception) -> SinkError | None:
    """The error as a fault of an output; None where it is something else."""
    if isinstance(error, io.UnsupportedOperation):  # from a stand-in of `_fill_closed_streams`
        closed = "standard output is closed: nowhere to write results to"
        return None if sys.stdout.writable() else SinkError(closed)
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        try:
            sys.stdout.flush()
        except OSError:
            _leave(sys.stdout)
        where = error.filename or "standard output, or a file"
        return SinkError(f"{where}: could not be written: {error.strerror}")
    return None


def _status_of(error: StillframeError, arguments: Sequence[str]) -> int:
    _complain(str(error), error, arguments)
    return error.exit_code


def _fill_closed_streams() -> None:
    """Put a stand-in where the caller closed a standard stream, so that no file takes its number.

    Standard output becomes one that cannot be written to, so that losing results is an error;
    messages for people are dropped.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            mode = "w" if name == "stderr" else "r"
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115
            if stream.fileno() != number:
                os.dup2(stream.fileno(), number)
            os.set_inheritable(number, True)  # as standard streams are
            setattr(sys, name, stream)


def _routed(arguments: Sequence[str]) -> list[str]:
    """The arguments with a command of two words as the one word that the parser knows."""
    first = next((n for n, word in enumerate(arguments) if not word.startswith("-")), 0)
    words = tuple(arguments[first : first + 2])
    if words not in TWO_WORDS:
        return list(arguments)
    return [*arguments[:first], TWO_WORDS[words], *arguments[first + 2 :]]


def _complain(message: str, error: BaseException, arguments: Sequence[str]) -> None:
    """Print the error; whoever worded it, no address of the command line appears unmasked."""
    try:
        if os.environ.get(DEBUG):
            printing.trace(mask("".join(traceback.format_exception(error)), arguments))
        printing.complaint("error", mask(message, arguments))
    except OSError:  # nobody reads it; the exit code still holds
        _leave(sys.stderr)


def _leave(stream: TextIO) -> None:
    """Drop what is still buffered for a reader that is gone, so that it does not fail at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
