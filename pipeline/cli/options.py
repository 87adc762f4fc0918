"""Options that several commands share, so that they mean the same in each."""

from typing import Annotated, Literal

import typer

HOW = "Reuse and speed"
TOLERANCE = 0.1  # settings.TOLERANCE; that module is heavy, and --help must not wait for it

ReuseMode = Annotated[
    Literal["off", "frame", "layer", "exact"],
    typer.Option(help="What of earlier frames is used again.", rich_help_panel=HOW),
]
Tolerance = Annotated[
    float,
    typer.Option(min=0, help="Of --reuse layer: how far a layer may drift.", rich_help_panel=HOW),
]
ProfileFile = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Tolerances from `stillframe tune`; implies --reuse layer.",
        rich_help_panel=HOW,
    ),
]
GateSetting = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="A setting of the change gate, such as pixel=3; may be repeated.",
        rich_help_panel=HOW,
    ),
]
MaxAge = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="Seconds after which a result is renewed; default 5, with --reuse layer 60.",
        rich_help_panel=HOW,
    ),
]
Every = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Compute each Nth frame only, of those that change; default 1, or the profile's.",
        rich_help_panel=HOW,
    ),
]
Between = Annotated[
    Literal["keep", "follow"] | None,
    typer.Option(
        help="Of --every: frames in between keep the last result, or its boxes follow the picture; "
        "default keep, or the profile's.",
        rich_help_panel=HOW,
    ),
]
Threads = Annotated[
    int, typer.Option(min=0, help="Of the network; 0: one a CPU.", rich_help_panel=HOW)
]
