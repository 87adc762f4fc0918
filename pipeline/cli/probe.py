"""stillframe probe: what a source holds, stated and seen."""

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:  # FFmpeg takes a while to load; asking for help must not
    from stillframe.pipeline.media.probe import SourceProbe

PLAIN_WIDTH = 200  # columns of a table that goes to a file or a pipe


def probe(
    source: Annotated[
        str,
        typer.Argument(
            help="File, folder or pattern of pictures, camera (0, /dev/video0), rtsp:// http:// "
            "udp:// address, - for standard input, or sample:NAME."
        ),
    ],
    frames: Annotated[int, typer.Option(min=1, help="Decode that many to see.")] = 60,
    fps: Annotated[
        float | None, typer.Option(min=0.001, help="Pictures a second, of folders and cameras.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds to wait for a camera or stream.")
    ] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show what a source holds, and what decoding its first frames showed."""
    from stillframe.pipeline.media.probe import probe_source

    found = probe_source(source, frames, rate=fps, timeout_s=timeout)
    if as_json:
        print(json.dumps(found.to_dict(), indent=2, allow_nan=False))
    else:
        _print_table(_rows(found))


def _rows(found: "SourceProbe") -> list[tuple[str, str]]:
    about = found.info
    turned = f", turned {about.rotation}° clockwise" if about.rotation else ""
    mirrored = ", mirrored" if about.mirrored else ""
    rows: list[tuple[str, Any]] = [
        ("source", about.spec),
        ("kind", f"{about.kind}, {'live: newest frame' if about.live else 'every frame'}"),
        ("container", about.container),
        ("picture", f"{about.width}x{about.height}{turned}{mirrored}"),
        ("pixel aspect", None if about.pixel_aspect == 1 else about.pixel_aspect),
        ("codec", f"{about.codec}, {about.pix_fmt}"),
        ("rate", _rate(found)),
        ("interval", _interval(found)),
        ("frames", about.frame_count),
        ("duration", None if about.duration_s is None else f"{about.duration_s:.3f} s"),
        ("sound", about.audio_codec or ("yes" if about.has_audio else "none")),
        ("looked at", f"{found.frames} frames"),
        ("sizes", _sizes(found)),
        ("corrupt", found.corrupt),
        ("discontinuities", found.discontinuities),
        ("skipped packets", found.skipped),
        ("dropped", found.dropped if about.live else None),
        ("decode", None if found.decode_ms is None else f"{found.decode_ms:.1f} ms a frame"),
        ("fault", found.fault),
    ]
    return [(name, str(value)) for name, value in rows if value is not None]


def _rate(found: "SourceProbe") -> str | None:
    stated, measured = found.info.rate, found.measured_rate
    parts = [f"{float(stated):.3f} stated"] if stated else []
    parts += [f"{measured:.3f} measured"] if measured else []
    kinds = {True: "variable", False: "constant", None: ""}
    return ", ".join(filter(None, [*parts, kinds[found.variable_rate]])) or None


def _interval(found: "SourceProbe") -> str | None:
    if found.interval_ms is None:
        return None
    low, middle, high = found.interval_ms
    return f"{low:g} … {middle:g} … {high:g} ms (least, median, most)"


def _sizes(found: "SourceProbe") -> str | None:
    """Named only when there is more than one."""
    if len(found.sizes) < 2:
        return None
    return ", ".join(f"{width}x{height}" for width, height in found.sizes)


def _print_table(rows: list[tuple[str, str]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        table.add_row(f"[bold]{name}[/bold]", escape(value))
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)
    with console.capture() as lines:
        console.print(table)
    print("\n".join(line.rstrip() for line in lines.get().splitlines()))
