"""What the change gate counts as new. Loads no kernels."""

from dataclasses import dataclass

from stillframe.errors import UsageError

RANGES: dict[str, tuple[float, float]] = {
    "pixel": (0.1, 40.0),
    "block": (0.01, 10.0),
    "least_noise": (0.1, 50.0),
    "most_noise": (0.1, 50.0),
    "margin": (2, 64),
    "hold": (0, 250),
    "soft": (0.1, 1.0),
    "flush": (0.01, 1.0),
    "sweep": (0.0, 1.0),
}
REPLACED = ("stripes", "max_age")
"""Settings of an older refresh, off at 0. `RollingRefresh` renews a picture now."""


@dataclass(frozen=True, slots=True)
class GateSettings:
    """What counts as new. Raises UsageError for values outside `RANGES`."""

    pixel: float = 4.0
    """Limit of a pixel's largest channel difference, as a multiple of the measured noise."""
    block: float = 0.8
    """Limit of a block's mean difference, as a multiple of the measured noise."""
    least_noise: float = 4.0
    """Smallest noise that is assumed, grey levels."""
    most_noise: float = 6.0
    """Largest noise that is assumed, grey levels."""
    margin: int = 4
    """Pixels by which a new area grows to each side."""
    hold: int = 2
    """Frames for which the softer limits apply after motion."""
    soft: float = 0.67
    """Factor of the limits where something moved within the last `hold` frames."""
    flush: float = 0.8
    """Share of new pixels above which the whole picture is new."""
    sweep: float = 0.2
    """Share of blocks that drift together above which the light has changed."""
    exact: bool = False
    """Every pixel that differs at all is new; of the other settings only `flush` applies."""

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise UsageError(f"change gate: {name} lies in {low:g} .. {high:g}, got {value}")
        if self.most_noise < self.least_noise:
            raise UsageError(
                f"change gate: most_noise is at least least_noise, {self.least_noise},"
                f" got {self.most_noise}"
            )
        if self.pixel * self.most_noise > 250:
            raise UsageError(
                "change gate: pixel times most_noise is a limit in grey levels, at most 250,"
                f" got {self.pixel * self.most_noise:g}"
            )


def replaced(name: str) -> UsageError:
    """What to say of a setting in REPLACED."""
    return UsageError(
        f"change gate: {name} is no longer a setting: --max-age SECONDS (max_age_s in Python)"
        " renews the picture a few rows at a time"
    )
