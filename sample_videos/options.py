"""Options of a drawn clip, and how they are written: `plaza?size=640x360&seconds=5`."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any

from stillframe.errors import UsageError

SMALLEST, LARGEST = 96, 4096


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a drawn clip. Raises UsageError for values out of range."""

    size: tuple[int, int] = (1280, 720)
    """(width, height) in pixels, both even."""
    seconds: float = 20.0
    fps: float = 30.0
    """Frames per second."""
    noise: float | None = None
    """Standard deviation of the sensor noise, grey levels; None: the scene's own."""
    seed: int = 0
    """Of everything random in the scene."""

    def __post_init__(self) -> None:
        width, height = self.size
        _require(
            all(SMALLEST <= n <= LARGEST and n % 2 == 0 for n in (width, height)), "size",
            f"even width and height of {SMALLEST} to {LARGEST} pixels", f"{width}x{height}",
        )  # fmt: skip
        _require(0.25 <= width / height <= 4, "size", "sides of at most 4:1", f"{width}x{height}")
        _require(0 < self.seconds <= 3600, "seconds", "more than 0, at most 3600", self.seconds)
        _require(1 <= self.fps <= 240, "fps", "1 to 240", self.fps)
        _require(self.noise is None or 0 <= self.noise <= 64, "noise", "0 to 64", self.noise)
        _require(0 <= self.seed < 2**63, "seed", "a whole number from 0", self.seed)

    @property
    def rate(self) -> Fraction:
        """Frames per second, exact: 29.97 is 30000/1001."""
        near = Fraction(round(self.fps * 1001 / 1000) * 1000, 1001)
        if abs(float(near) - self.fps) < 0.005 and self.fps != round(self.fps):
            return near
        return Fraction(self.fps).limit_denominator(1000)

    @property
    def frame_count(self) -> int:
        return max(math.floor(self.seconds * float(self.rate) + 0.5), 1)

    def label(self, noise: float) -> str:
        """All values as part of a file name; noise: the one in the image."""
        width, height = self.size
        return f"{width}x{height}-{self.seconds:g}s-{self.fps:g}fps-noise{noise:g}-seed{self.seed}"


def _require(valid: bool, name: str, expected: str, got: object) -> None:
    if not valid:
        raise UsageError(f"{name}: expected {expected}, got {got}")


def parse_size(text: str) -> tuple[int, int]:
    """`1280x720` -> (1280, 720)."""
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise UsageError(f"size: expected WIDTHxHEIGHT such as 1280x720, got {text!r}")
    return int(width), int(height)


def parse_switch(text: str) -> bool:
    """yes or no, in the usual spellings."""
    words = {"1": True, "yes": True, "true": True, "0": False, "no": False, "false": False}
    if text.lower() not in words:
        raise UsageError(f"expected yes or no, got {text!r}")
    return words[text.lower()]


PARSERS: dict[str, Callable[[str], Any]] = {
    "size": parse_size,
    "seconds": float,
    "fps": float,
    "noise": float,
    "seed": int,
    "allow_sdist": parse_switch,
}
assert set(PARSERS) == {one.name for one in fields(Options)} | {"allow_sdist"}


def parse_spec(text: str) -> tuple[str, dict[str, Any]]:
    """`plaza?size=640x360&seconds=5` -> ("plaza", {"size": (640, 360), "seconds": 5.0}).

    A leading `sample:` is dropped. Raises UsageError for unknown or unreadable options; `resolve`
    checks the name.
    """
    name, _, query = text.removeprefix("sample:").partition("?")
    options: dict[str, Any] = {}
    for part in filter(None, query.split("&")):
        key, equals, value = part.partition("=")
        if key not in PARSERS:
            raise UsageError(f"sample:{name} has no option {key!r}; there are {', '.join(PARSERS)}")
        if not equals:
            raise UsageError(f"sample:{name}: expected {key}=VALUE, got {part!r}")
        try:
            options[key] = PARSERS[key](value)
        except ValueError as e:
            raise UsageError(f"sample:{name}: {key}: expected a number, got {value!r}") from e
    return name, options


def options_from(values: Mapping[str, Any]) -> Options:
    """Options from keyword arguments. Raises UsageError for an unknown name."""
    unknown = set(values) - {one.name for one in fields(Options)}
    if unknown:
        known = ", ".join(one.name for one in fields(Options))
        raise UsageError(f"no option {', '.join(sorted(unknown))}; there are {known}")
    return Options(**values)
