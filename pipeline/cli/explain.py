"""stillframe explain: what each layer costs, what a clip changes in it, and whether reuse pays."""

import contextlib
import json
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from stillframe.errors import ModelError, SinkError, UsageError

if TYPE_CHECKING:  # heavy, and asking for help must not wait for it
    from stillframe.models.model import Model
    from stillframe.pipeline.studies.explain.explain import Explanation, Row
    from stillframe.pipeline.studies.explain.verdict import Verdict

WIDTH = 190  # of the table where it does not go to a terminal
REMARK = 60  # characters of a reason in the table; --json has all of it


def explain(
    model: Annotated[str, typer.Argument(help="Name from `models list`, or an .onnx file.")],
    clip: Annotated[
        str | None, typer.Argument(help="Any source that `run` takes, such as sample:NAME.")
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(min=0, help="Change that a layer may leave unstored; 0: exact."),
    ] = 0.0,
    gate: Annotated[
        Literal["adaptive", "exact"],
        typer.Option(help="What counts as new: more than noise, or any difference."),
    ] = "adaptive",
    threads: Annotated[int, typer.Option(min=0, help="Of the network; 0: one a CPU.")] = 0,
    max_frames: Annotated[int | None, typer.Option(min=2, help="Stop after that many.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    heatmap: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw where each resolution was computed."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the --heatmap file.")] = False,
) -> None:
    """Show what each layer costs and what a clip makes of it, and say whether reuse pays."""
    from stillframe.pipeline.media.open_source import open_source
    from stillframe.pipeline.studies.explain.explain import explain as examine
    from stillframe.pipeline.studies.explain.verdict import judge

    if heatmap is not None and clip is None:
        raise UsageError("--heatmap shows what a clip changes: give a CLIP too")
    if heatmap is not None and heatmap.suffix.lower() != ".png":
        raise UsageError(f"--heatmap: expected a file called .png, got {heatmap}")
    if heatmap is not None and heatmap.exists() and not force:
        raise SinkError(f"{heatmap}: already there; --force overwrites it")
    network = _loaded(model)
    with contextlib.ExitStack() as stack:
        frames = None
        if clip is not None:
            source = stack.enter_context(open_source(clip))
            network = network.for_source(source.info.height, source.info.width)
            frames = islice(source, max_frames)
        found = examine(
            network,
            frames,
            tolerance=tolerance,
            gate=gate,
            threads=threads or None,
            heat=heatmap is not None,
        )
    verdicts = judge(found)
    if heatmap is not None:
        _draw(heatmap, found, str(clip))
    if as_json:
        judged = [
            {"kind": each.kind, "words": each.words, "figures": each.figures} for each in verdicts
        ]
        said = {**found.to_dict(), "clip": clip, "verdicts": judged}
        print(json.dumps(said, indent=2, allow_nan=False))
    else:
        _print(found, verdicts)


def _loaded(name: str) -> "Model":
    """A model of known or of unknown task: only its tensors matter here."""
    from stillframe.models import catalog, zoo

    try:
        return zoo.load(name)
    except ModelError:
        if name in catalog.MODELS or not Path(name).is_file():
            raise
        return zoo.load(name, task="tensors")


def _draw(path: Path, found: "Explanation", clip: str) -> None:
    import cv2

    from stillframe.pipeline.studies.explain.heatmap import draw

    if found.heat is None:
        raise UsageError(f"{clip}: no frames to draw")
    total = found.totals
    image = draw(
        found.heat,
        f"{found.model} on {clip.rsplit('/', 1)[-1]}",
        f"{total.frames} frames after the first, gate {found.gate}, tolerance {found.tolerance:g}: "
        f"{total.input or 0:.1%} of the picture new, {total.work or 0:.1%} of the work done",
    )
    made, content = cv2.imencode(".png", image[..., ::-1])
    try:
        path.write_bytes(content.tobytes() if made else b"")
    except OSError as error:
        raise SinkError(f"{path}: writing failed: {error.strerror}") from None


def _print(found: "Explanation", verdicts: tuple["Verdict", ...]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    total, memory = found.totals, found.memory
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    columns: dict[str, Literal["left", "right"]] = {
        "layer": "left", "operator": "left", "shape": "left", "M mult-adds": "right",
        "active": "right", "reuse ms": "right", "dense ms": "right", "memory": "left",
        "last read by": "left", "why": "left",
    }  # fmt: skip
    table = Table(box=None, padding=(0, 1), title_justify="left")
    for name, side in columns.items():
        table.add_column(name, justify=side, overflow="ellipsis" if name == "why" else "fold")
    for row in found.rows:
        table.add_row(*(escape(text) for text in _cells(row)))
    console.print(table)
    height, width = found.size
    work = f", {total.work:.1%} of them done" if total.work is not None else ""
    console.print(
        f"\n{escape(found.model)} at {width}x{height}: {total.multiply_adds / 1e6:.0f} M "
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
    for note in found.notes:
        console.print(f"note: {escape(note)}")
    for verdict in verdicts:
        console.print(f"\n[bold]{verdict.kind}[/bold]: {escape(verdict.words)}")


def _cells(row: "Row") -> list[str]:
    def given(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    kept = {True: "persistent", False: "transient", None: ""}[row.persistent]
    size = f" {row.bytes / 1e6:.1f} MB" if row.bytes else " view" if kept else ""
    held = f"{len(row.nodes)} nodes: " if row.nodes else ""
    values: list[Any] = [
        row.name if len(row.name) <= 28 else "…" + row.name[-27:],
        row.operator,
        "x".join("?" if size < 0 else str(size) for size in row.shape),
        f"{row.multiply_adds / 1e6:.1f}" if row.multiply_adds else "",
        given(row.active, ".1%"),
        given(row.reuse_ms, ".2f"),
        f"{row.dense_ms:.2f}",
        kept + size,
        row.last_reader.split(" -> ")[0],
        held + (row.reason or row.why),
    ]
    values[-1] = values[-1] if len(values[-1]) <= REMARK else values[-1][: REMARK - 1] + "…"
    return values
