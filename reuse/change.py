"""The change gate: which pixels of a frame must be treated as new.

A frame is compared with the *reference*, the picture that the caches stand for, and never with the
frame before: so slow change adds up until it is seen. The reference takes over the pixels that were
treated as new and no others.

A pixel is new where
- it and its eight neighbours differ by more than `pixel` deviations of the camera's noise (specks
  alone are noise: the 3x3 opening of mathematical morphology);
- or the mean over the 5x5 pixels around it does by more than `patch` deviations (low contrast);
- or the mean over its block does by more than `block` deviations (slow drift, exposure).
New pixels grow by a margin, and for some frames after motion a lower threshold holds.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stillframe.errors import UsageError
from stillframe.reuse.kernels.gate import (
    BLOCK,
    OFF,
    ON,
    PATCH,
    compare,
    differs,
    grow,
    merge_opened,
    patches,
    same,
    settle,
    take_over,
    trip_blocks,
)
from stillframe.reuse.noise import BINS, NoiseMeter

Kind = Literal["unchanged", "partial", "all"]
Mask = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class GateSettings:
    """What counts as new; deviations are multiples of the measured noise.

    least_noise, most_noise: limits of what is believed of the noise, grey levels. margin: pixels
    by which new ones grow. hold: frames for which `soft` times the thresholds apply where something
    was new. flush: share of new pixels above which all are. refresh: every frame, the next of so
    many stripes of the picture is new; 0: never. exact: plain inequality and nothing else.
    """

    pixel: float = 3.0
    patch: float = 2.0
    block: float = 0.8
    least_noise: float = 1.0
    most_noise: float = 8.0
    margin: int = 4
    hold: int = 3
    soft: float = 0.6
    flush: float = 0.8
    refresh: int = 0
    exact: bool = False

    def __post_init__(self) -> None:
        for name in ("pixel", "patch", "block", "least_noise", "soft"):
            if not getattr(self, name) > 0:
                raise UsageError(f"gate {name}: expected more than 0, got {getattr(self, name)}")
        for name, most in (("margin", 64), ("hold", 250), ("refresh", 10_000)):
            if not 0 <= getattr(self, name) <= most:
                raise UsageError(f"gate {name}: expected 0 .. {most}, got {getattr(self, name)}")
        if not 0 < self.flush <= 1:
            raise UsageError(f"gate flush: expected a share in (0, 1], got {self.flush}")
        if self.most_noise < self.least_noise:
            raise UsageError(
                f"gate most_noise: expected at least {self.least_noise}, got {self.most_noise}"
            )


@dataclass(frozen=True, slots=True)
class ChangeMap:
    """Which pixels are new. mask (H, W) uint8, 1 for new, valid until the gate's next step.

    active: share of them. kind: none, some or all. reason: in words.
    """

    mask: Mask
    active: float
    kind: Kind
    reason: str

    @classmethod
    def full(cls, height: int, width: int, reason: str = "asked for") -> "ChangeMap":
        return cls(np.ones((height, width), np.uint8), 1.0, "all", reason)

    @classmethod
    def none(cls, height: int, width: int, reason: str = "asked for") -> "ChangeMap":
        return cls(np.zeros((height, width), np.uint8), 0.0, "unchanged", reason)


SWEEP = 0.1  # share of blocks that drift together: the light changed, not an object


@dataclass(slots=True)
class ChangeGate:
    """Finds what is new in the frames of one stream, all (height, width, 3) uint8.

    `reference` is the picture to feed to the model. Nothing is allocated after construction.
    """

    height: int
    width: int
    settings: GateSettings = field(default_factory=GateSettings)
    reference: NDArray[np.uint8] = field(init=False)
    noise: NoiseMeter = field(init=False)
    _fresh: bool = field(init=False, default=True)
    _stripe: int = field(init=False, default=0)
    _mask: Mask = field(init=False, repr=False)
    _seeds: Mask = field(init=False, repr=False)
    _over: Mask = field(init=False, repr=False)
    _spread: Mask = field(init=False, repr=False)
    _held: Mask = field(init=False, repr=False)
    _bins: Mask = field(init=False, repr=False)
    _limits: Mask = field(init=False, repr=False)
    _signed: Floats = field(init=False, repr=False)
    _blocks: Floats = field(init=False, repr=False)
    _line: Mask = field(init=False, repr=False)
    _live: Mask = field(init=False, repr=False)
    _columns: Floats = field(init=False, repr=False)
    _strip: Floats = field(init=False, repr=False)
    _thresholds: Mask = field(init=False, repr=False)
    _wanted: Mask = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise UsageError(f"gate: expected a picture, got {self.width}x{self.height}")
        shape = (self.height, self.width)
        self.reference = np.zeros((*shape, 3), np.uint8)
        self.noise = NoiseMeter(
            self.height, self.width, self.settings.least_noise, self.settings.most_noise
        )
        self._mask, self._seeds, self._over, self._spread, self._held, self._bins, self._limits = (
            np.zeros(shape, np.uint8) for _ in range(7)
        )
        self._signed = np.zeros(shape, np.float32)
        self._blocks = np.zeros((-(-self.height // BLOCK), -(-self.width // BLOCK)), np.float32)
        self._line = np.zeros(self.width, np.uint8)
        self._live = np.zeros(self.height, np.uint8)
        self._columns = np.zeros(self.width, np.float32)
        self._strip = np.zeros(self.width, np.float32)
        self._thresholds, self._wanted = (np.zeros((2, BINS), np.uint8) for _ in range(2))

    def reset(self) -> None:
        """Forget the reference: all of the next frame is new. What is known of the noise stays."""
        self._fresh = True

    def step(self, image: NDArray[np.uint8], *, trust: bool = True) -> ChangeMap:
        """What is new in the next frame; the reference is brought up to date there.

        trust: False for a corrupt frame: nothing of it is taken, and nothing counts as new.
        """
        if image.shape != self.reference.shape or image.dtype != np.uint8:
            raise UsageError(
                f"gate: expected {self.reference.shape} uint8, got {image.shape} {image.dtype}"
            )
        if not trust:
            self._mask[...] = OFF
            return self._unchanged("the frame is corrupt")
        if self._fresh:
            return self._all(image, "first frame")
        if self.settings.exact:
            return self._exact(image)
        self.noise.learn(image)
        refreshing = self.settings.refresh > 0
        if not refreshing and same(image.reshape(-1), self.reference.reshape(-1)):
            self._mask[...] = OFF
            return self._unchanged("every pixel is equal")
        count = self._find(image)
        if refreshing:
            count = self._next_stripe()
        share = count / self._mask.size
        if share > self.settings.flush:
            return self._all(image, f"{share:.0%} of the picture is new")
        if count == 0:
            self._settle()
            return self._unchanged("every difference is noise")
        take_over(image, self._mask, self.reference, self._bins)
        self._settle()
        return ChangeMap(self._mask, share, "partial", f"{share:.1%} of the picture is new")

    def _settle(self, everywhere: bool = False) -> None:
        """Bring the threshold of every pixel up to date, where the noise has moved in all rows."""
        for row, scale in enumerate((1.0, self.settings.soft)):
            limit = np.rint(self.noise.sigma * (self.settings.pixel * scale))
            self._wanted[row] = np.clip(limit, 1, 255)
        moved = not np.array_equal(self._wanted, self._thresholds)
        self._thresholds[...] = self._wanted
        settle(
            self._mask, np.uint8(self.settings.hold), self._thresholds, everywhere or moved,
            self._bins, self._held, self._limits,
        )  # fmt: skip

    def _find(self, image: NDArray[np.uint8]) -> int:
        settings = self.settings
        flat = (self.height, self.width * 3)
        compare(
            image.reshape(flat), self.reference.reshape(flat), self._limits,
            self._over, self._signed, self._strip, self._blocks,
        )  # fmt: skip
        scale = settings.patch / settings.pixel * (2 * PATCH + 1) ** 2 * 3
        patches(self._signed, self._limits, np.float32(scale), self._seeds, self._columns)
        merge_opened(self._over, self._seeds, self._line)
        limit = self.noise.overall * settings.block
        trip_blocks(self._blocks, self.height, self.width, limit, SWEEP, self._seeds)
        return int(grow(self._seeds, settings.margin, self._spread, self._live, self._mask))

    def _next_stripe(self) -> int:
        """Force the next stripe of the picture into the mask; -> pixels in it."""
        stripes = min(self.settings.refresh, self.height)
        self._stripe = (self._stripe + 1) % stripes
        top, bottom = ((self._stripe + end) * self.height // stripes for end in (0, 1))
        self._mask[top:bottom] = ON
        return int(np.count_nonzero(self._mask))

    def _exact(self, image: NDArray[np.uint8]) -> ChangeMap:
        count = int(differs(image, self.reference, self._mask))
        if count == 0:
            return self._unchanged("every pixel is equal")
        share = count / self._mask.size
        if share > self.settings.flush:
            return self._all(image, f"{share:.0%} of the picture is new")
        take_over(image, self._mask, self.reference, self._bins)
        return ChangeMap(self._mask, share, "partial", f"{share:.1%} of the picture is new")

    def _all(self, image: NDArray[np.uint8], reason: str) -> ChangeMap:
        self._fresh = False
        self._mask[...] = ON
        self._held[...] = OFF
        take_over(image, self._mask, self.reference, self._bins)
        self.noise.start(image)
        self._mask[...] = OFF  # nothing is held after a cut
        self._settle(everywhere=True)
        self._mask[...] = ON
        return ChangeMap(self._mask, 1.0, "all", reason)

    def _unchanged(self, reason: str) -> ChangeMap:
        return ChangeMap(self._mask, 0.0, "unchanged", reason)
