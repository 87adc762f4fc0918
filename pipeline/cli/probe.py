"""stillframe probe: what a source holds, stated and seen."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from stillframe.pipeline.cli import options, printing
from stillframe.pipeline.media.redaction import MaskedAddress

if TYPE_CHECKING:  # FFmpeg takes a while to load; asking for help must not
    from stillframe.pipeline.media.probe import SourceProbe


def probe(
    source: Annotated[str, typer.Argument(help=options.SOURCE_HELP)],
    frames: Annotated[int, typer.Option(min=1, help="Decode this many frames.")] = 60,
    fps: Annotated[
        float | None, typer.Option(min=0.001, help="Frame rate of folders and cameras.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds to wait for a camera or stream.")
    ] = 10.0,
    as_json: options.AsJson = False,
) -> None:
    """Show what a source states about itself, and what its first frames turn out to be."""
    from stillframe.pipeline.media.probe import probe_source

    probed = probe_source(MaskedAddress(source), frames, rate=fps, timeout_s=timeout)
    if as_json:
        printing.json_data(probed.to_dict())
    else:
        _print_table(_rows(probed))


def _rows(probed: "SourceProbe") -> list[tuple[str, str]]:
    about = probed.info
    turned = f", turned {about.rotation}° clockwise" if about.rotation else ""
    mirrored = ", mirrored" if about.mirrored else ""
    rows: list[tuple[str, Any]] = [
        ("source", about.spec),
        ("kind", f"{about.kind}, {'live: newest frame' if about.live else 'every frame'}"),
        ("container", about.container),
        ("picture", f"{about.width}x{about.height}{turned}{mirrored}"),
        ("pixel aspect", None if about.pixel_aspect == 1 else about.pixel_aspect),
        ("codec", f"{about.codec}, {about.pix_fmt}"),
        ("rate", _rate(probed)),
        ("interval", _interval(probed)),
        ("frames", about.frame_count),
        ("duration", None if about.duration_s is None else f"{about.duration_s:.3f} s"),
        ("sound", about.audio_codec or ("yes" if about.has_audio else "none")),
        ("examined", f"{probed.frames} frames"),
        ("sizes", _sizes(probed)),
        ("corrupt", probed.corrupt),
        ("discontinuities", probed.discontinuities),
        ("skipped packets", probed.skipped),
        ("dropped", probed.dropped if about.live else None),
        ("decode", None if probed.decode_ms is None else f"{probed.decode_ms:.1f} ms a frame"),
        ("fault", probed.fault),
    ]
    return [(name, str(value)) for name, value in rows if value is not None]


def _rate(probed: "SourceProbe") -> str | None:
    stated, measured = probed.info.rate, probed.measured_rate
    parts = [f"{float(stated):.3f} stated"] if stated else []
    parts += [f"{measured:.3f} measured"] if measured else []
    kinds = {True: "variable", False: "constant", None: ""}
    return ", ".join(filter(None, [*parts, kinds[probed.variable_rate]])) or None


def _interval(probed: "SourceProbe") -> str | None:
    if probed.interval_ms is None:
        return None
    low, middle, high = probed.interval_ms
    return f"{low:g} … {middle:g} … {high:g} ms (least, median, most)"


def _sizes(probed: "SourceProbe") -> str | None:
    """Named only when there is more than one."""
    if len(probed.sizes) < 2:
        return None
    return ", ".join(f"{width}x{height}" for width, height in probed.sizes)


def _print_table(rows: list[tuple[str, str]]) -> None:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column()
    for name, value in rows:
        table.add_row(name, value)
    printing.table_data(table)
