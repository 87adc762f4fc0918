"""stillframe explain: what each layer costs, what a clip changes in it, and whether reuse pays."""

import contextlib
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from stillframe.errors import ModelError, SinkError, UsageError
from stillframe.pipeline.cli import options, printing
from stillframe.pipeline.media.redaction import MaskedAddress

if TYPE_CHECKING:  # heavy, and asking for help must not wait for it
    from stillframe.models.model import Model
    from stillframe.pipeline.studies.explain.explanation import Explanation, Row
    from stillframe.pipeline.studies.explain.verdict import Verdict

PLAIN_WIDTH = 10_000
"""Columns in a file or a pipe: each line there is as long as what it says."""
WIDE = 190
"""Columns of a terminal from which on the table has what the memory planner knows, too."""
LIVE_FRAMES = 300
"""Of a live stream, which has no end, if the user names no number."""


@options.options_of(options.ModelOptions)
def explain(
    model: Annotated[str, typer.Argument(help=options.MODEL_HELP)],
    clip: Annotated[
        str | None, typer.Argument(help="Any source that `run` takes, such as sample:NAME.")
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            min=0,
            help="How far a layer's values may drift, as a share of their magnitude; 0: exact.",
        ),
    ] = 0.0,
    gate: Annotated[
        Literal["adaptive", "exact"],
        typer.Option(help="What counts as a change: more than noise, or any difference."),
    ] = "adaptive",
    threads: Annotated[
        int, typer.Option(min=0, help="Threads of the network; 0: one for each CPU.")
    ] = 0,
    max_frames: Annotated[
        int | None,
        typer.Option(min=2, help="Stop after this many frames; default all, of a live stream 300."),
    ] = None,
    as_json: options.AsJson = False,
    heatmap: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Picture of where each resolution was recomputed."),
    ] = None,
    widen: options.Widen = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the --heatmap file.")] = False,
    **model_options: Any,
) -> None:
    """Show what each layer costs, what a clip changes in it, and whether reuse pays."""
    from stillframe.pipeline.media.open_source import open_source
    from stillframe.pipeline.studies.explain.explain import explain as examine
    from stillframe.pipeline.studies.explain.verdict import judge

    clip = None if clip is None else MaskedAddress(clip)
    if heatmap is not None and clip is None:
        raise UsageError("--heatmap shows what a clip changes: give a CLIP too")
    if heatmap is not None and heatmap.suffix.lower() != ".png":
        raise UsageError(f"--heatmap: expected a file called .png, got {heatmap}")
    if heatmap is not None and heatmap.exists() and not force:
        raise SinkError(f"{heatmap}: already there; --force overwrites it")
    network = _loaded(model, options.ModelOptions(**model_options))
    with contextlib.ExitStack() as stack:
        frames = None
        if clip is not None:
            source = stack.enter_context(open_source(clip))
            network = network.for_source(source.info.height, source.info.width)
            if source.info.live and max_frames is None:
                max_frames = LIVE_FRAMES
                printing.plain(
                    printing.people(),
                    f"{source.info.spec}: a live stream; the first {LIVE_FRAMES} frames are "
                    "examined, --max-frames takes another number",
                )
            frames = islice(source, max_frames)
        explanation = examine(
            network,
            frames,
            tolerance=tolerance,
            gate=gate,
            threads=threads or None,
            heatmap=heatmap is not None,
            widen=widen,
        )
    verdicts = judge(explanation)
    if heatmap is not None:
        _draw(heatmap, explanation, str(clip))
    if as_json:
        judged = [
            {"kind": each.kind, "words": each.words, "figures": each.figures} for each in verdicts
        ]
        printing.json_data({**explanation.to_dict(), "clip": clip, "verdicts": judged})
    else:
        _print(explanation, verdicts)


def _loaded(name: str, stated: options.ModelOptions) -> "Model":
    """The model, whatever its task: only its tensors matter here."""
    from stillframe.models import catalog, zoo

    if stated.stated():
        return zoo.load_stated(name, stated.card())
    try:
        return zoo.load(name)
    except ModelError:
        if name in catalog.MODELS or not Path(name).is_file():
            raise
        return zoo.load(name, task="tensors")


def _draw(path: Path, explanation: "Explanation", clip: str) -> None:
    import cv2

    from stillframe.pipeline.studies.explain.heatmap import draw

    if explanation.heatmap is None:
        raise UsageError(f"{clip}: no frames to draw")
    total = explanation.totals
    image = draw(
        explanation.heatmap,
        f"{explanation.model} on {clip.rsplit('/', 1)[-1]}",
        f"{total.frames} frames after the first, gate {explanation.gate}, "
        f"tolerance {explanation.tolerance:g}: "
        f"{total.input or 0:.1%} of the picture new, {total.work or 0:.1%} of the work done",
    )
    encoded, content = cv2.imencode(".png", image[..., ::-1])
    try:
        path.write_bytes(content.tobytes() if encoded else b"")
    except OSError as error:
        raise SinkError(f"{path}: writing failed: {error.strerror}") from None


def _print(explanation: "Explanation", verdicts: tuple["Verdict", ...]) -> None:
    from rich.text import Text

    from stillframe.pipeline.cli.explain_table import table

    total, memory = explanation.totals, explanation.memory
    console = printing.output(PLAIN_WIDTH)
    for verdict in verdicts:
        console.print(Text.assemble((verdict.kind, "bold"), f": {verdict.words}"))
    height, width = explanation.size
    work = f", {total.work:.1%} of them done" if total.work is not None else ""
    console.print(
        f"\n{explanation.model} at {width}x{height}: {total.multiply_adds / 1e6:.0f} M "
        f"multiply-adds{work}; {total.dense_ms:.1f} ms dense"
    )
    if total.reuse_ms is not None:
        console.print(
            f"{total.frames} frames after the first, {total.unchanged} unchanged, {total.dense} "
            f"computed whole; {total.input or 0:.1%} of the picture new; {total.reuse_ms:.1f} ms "
            f"median, {total.reuse_mean_ms:.1f} ms mean, {total.gate_ms:.1f} ms to find the change"
        )
    console.print(
        f"memory: {memory.persistent / 1e6:.1f} MB persistent, {memory.transient / 1e6:.1f} MB "
        f"transient (at least {memory.lower_bound / 1e6:.1f}), {memory.weights / 1e6:.1f} MB "
        f"weights; every activation would take {memory.every_activation / 1e6:.1f} MB"
    )
    for note in explanation.notes:
        console.print(f"note: {note}")
    for algorithm in dict.fromkeys(row.algorithm for row in explanation.rows if row.algorithm):
        names = [row.name for row in explanation.rows if row.algorithm == algorithm]
        console.print(f"{algorithm}: {', '.join(names)}")
    for row in explanation.rows:
        if row.reason:
            console.print(f"island {row.name.split(', ')[0]}: {_nodes(row)}: {row.reason}")
    console.print()
    planned = console.width >= WIDE
    printing.table_data(table(explanation, planned=planned), console.width)
    if not planned:
        console.print(
            "\nA wider terminal, a file and --json also have who reads each layer last, and why "
            "its values persist."
        )


def _nodes(row: "Row") -> str:
    """What an island holds, in words."""
    first = row.nodes[0] if row.nodes else "none"
    return first if len(row.nodes) <= 1 else f"{len(row.nodes)} nodes, from {first} on"
