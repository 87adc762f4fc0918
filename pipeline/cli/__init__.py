"""`stillframe`: the command line. One file a command; this one turns faults into exit codes.

    0 done, also when the reader of a pipe went away    1 a fault of stillframe itself
    2 usage   3 source   4 model   5 output   6 quality floor not met
    130 Ctrl-C, 143 SIGTERM, each after everything was closed properly

Standard output carries data only; everything for people goes to standard error.
"""

import errno
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn, TextIO

import typer

import stillframe
from stillframe.errors import SinkError, StillframeError
from stillframe.pipeline.cli import cache, models, samples, signals
from stillframe.pipeline.cli.bench import bench
from stillframe.pipeline.cli.bench_placement import bench_placement
from stillframe.pipeline.cli.devices import devices
from stillframe.pipeline.cli.explain import explain
from stillframe.pipeline.cli.filter import filter_
from stillframe.pipeline.cli.probe import probe
from stillframe.pipeline.cli.run import run
from stillframe.pipeline.cli.sweep import sweep
from stillframe.pipeline.cli.tune import tune

INTERNAL_FAULT = 1
USAGE_FAULT = 2
UNWRITTEN = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
REPORT = "this is a fault of stillframe: please report it with the traceback that --debug shows"
DEBUG = "STILLFRAME_DEBUG"
COMPLETION = "_STILLFRAME_COMPLETE"
TWO_WORDS = {("bench", "placement"): "bench-placement"}

app = typer.Typer(
    name="stillframe",
    help="Run any ONNX model on a video and compute only what changed since the last frame.",
    epilog="Exit codes: 0 done, 1 a fault of stillframe, 2 usage, 3 source, 4 model, 5 output, "
    "6 quality floor not met, 130 Ctrl-C, 143 SIGTERM.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(run)
app.command()(probe)
app.command()(explain)
app.command()(bench)
app.command("bench-placement", hidden=True)(bench_placement)
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
    """What stands before any command."""
    if debug:
        os.environ[DEBUG] = "1"
    if version:
        print(f"stillframe {stillframe.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit


def main() -> NoReturn:
    """The console script."""
    if COMPLETION in os.environ:  # a shell asks for completions
        app()
    signals.at_once()
    _fill_closed_streams()
    sys.exit(status(sys.argv[1:]))


def status(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; faults become one line on standard error."""
    # The base class of all that can be wrong with a command line; Typer does not export it.
    usage_error: Any = typer.BadParameter.__mro__[2]
    try:
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
        return status_of(error)
    except usage_error as error:
        _complain(error.format_message(), error)
        return USAGE_FAULT
    except Exception as error:
        fault = _output_fault(error)
        if fault is not None:
            return status_of(fault)
        _complain(f"{type(error).__name__}: {error}; {REPORT}", error)
        return INTERNAL_FAULT


def _run(arguments: Sequence[str]) -> int:
    command = typer.main.get_command(app)
    try:
        with command.make_context("stillframe", _routed(arguments)) as context:
            command.invoke(context)
    except typer.Exit as stop:
        return stop.exit_code
    return 0


def _output_fault(error: Exception) -> SinkError | None:
    """The fault of an output that an error tells of; None where it tells of another."""
    if isinstance(
        error, io.UnsupportedOperation
    ):  # raised by what `_fill_closed_streams` put there
        closed = "standard output is closed: nowhere to write results to"
        return None if sys.stdout.writable() else SinkError(closed)
    if isinstance(error, OSError) and error.errno in UNWRITTEN:
        try:
            sys.stdout.flush()
        except OSError:
            _leave(sys.stdout)
        where = error.filename or "standard output, or a file"
        return SinkError(f"{where}: could not be written: {error.strerror}")
    return None


def status_of(error: StillframeError) -> int:
    _complain(str(error), error)
    return error.exit_code


def _fill_closed_streams() -> None:
    """Where the caller closed a standard stream, files opened later must not take its place.

    Standard output becomes one that cannot be written to, so that losing results is an error;
    words for people go nowhere.
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
    """Commands of two words as the one that they are to the parser."""
    first = next((at for at, word in enumerate(arguments) if not word.startswith("-")), 0)
    words = tuple(arguments[first : first + 2])
    if words not in TWO_WORDS:
        return list(arguments)
    return [*arguments[:first], TWO_WORDS[words], *arguments[first + 2 :]]


def _complain(message: str, error: BaseException) -> None:
    try:
        if os.environ.get(DEBUG):
            traceback.print_exception(error)
        print(f"stillframe: error: {' '.join(message.split())}", file=sys.stderr)
    except OSError:  # where nobody can be told, the exit code still says it
        _leave(sys.stderr)


def _leave(stream: TextIO) -> None:
    """Nobody reads it any more; what is still buffered must not fail again at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
