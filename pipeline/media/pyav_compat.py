"""Differences between the supported versions of PyAV (17.1 and later)."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, BinaryIO, Protocol

import av
from av.container import InputContainer
from av.format import Flags

# Before PyAV 19, tags that are not UTF-8 raise an error by default.
_ANY_TAGS: dict[str, Any] = (
    {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
)


class ReadableFile(Protocol):
    """A file object that FFmpeg can read from."""

    def read(self, size: int, /) -> bytes: ...


class Ratio(Protocol):
    """A Fraction; since PyAV 19 its own type, in which 0 or a denominator of 0 means unknown."""

    @property
    def numerator(self) -> int: ...
    @property
    def denominator(self) -> int: ...
    def __bool__(self) -> bool: ...


def open_input(
    file: str | ReadableFile | BinaryIO,
    protocols: str,
    options: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
    format_name: str | None = None,
) -> InputContainer:
    """Open a container for reading.

    protocols: all that FFmpeg may open further (playlists, redirects): its names, comma-separated.
    """
    container: InputContainer = av.open(
        file,
        mode="r",
        format=format_name,
        options={**(options or {}), "protocol_whitelist": protocols},
        timeout=timeout_s,
        **_ANY_TAGS,
    )
    return container


def to_fraction(ratio: Ratio | None) -> Fraction | None:
    """The ratio as a Fraction; None if it is unknown."""
    return Fraction(ratio.numerator, ratio.denominator) if ratio else None


def times_may_restart(container: InputContainer) -> bool:
    """Whether the format's times may start anew in the middle, as in MPEG-TS."""
    return Flags.ts_discont in Flags(container.format.flags)
