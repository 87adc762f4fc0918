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
from stillframe.reuse.kernels.jit import kernel
from stillframe.reuse.noise import BINS, NoiseMeter, brightness

Kind = Literal["unchanged", "partial", "all"]
Mask = NDArray[np.uint8]
Floats = NDArray[np.float32]

BLOCK = 16  # pixels a side
PATCH = 2  # pixels on each side of the middle one
ON, OFF = np.uint8(1), np.uint8(0)
ZERO = np.float32(0)


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


@kernel
def differs(image, reference, mask):  # type: ignore[no-untyped-def]
    """mask (H, W) = any channel unequal; -> how many."""
    count = 0
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            unequal = OFF
            for c in range(3):
                unequal |= image[y, x, c] ^ reference[y, x, c]
            mask[y, x] = ON if unequal != OFF else OFF
            count += mask[y, x]
    return count


@kernel
def same(image, reference):  # type: ignore[no-untyped-def]
    """Whether all bytes are equal, of two flat arrays."""
    step = 1 << 14
    for start in range(0, image.shape[0], step):
        difference = OFF
        for i in range(start, min(start + step, image.shape[0])):
            difference |= image[i] ^ reference[i]
        if difference != OFF:
            return False
    return True


@kernel
def compare(image, reference, limits, over, signed, strip, blocks):  # type: ignore[no-untyped-def]
    """One pass over the picture, given as (H, 3 W).

    over (H, W) = the largest channel difference is beyond limits (H, W); signed (H, W) float32 =
    sum over channels of image - reference; blocks (h, w) float32 = their sums by block. strip (W,)
    is scratch. All numbers are whole and small, so float32, which vectorises best, is exact.
    """
    height, width = over.shape
    for y in range(height):
        new, old, beyond, total, limit = image[y], reference[y], over[y], signed[y], limits[y]
        for x in range(width):
            a = np.float32(new[3 * x]) - np.float32(old[3 * x])
            b = np.float32(new[3 * x + 1]) - np.float32(old[3 * x + 1])
            c = np.float32(new[3 * x + 2]) - np.float32(old[3 * x + 2])
            total[x] = a + b + c
            a, b, c = abs(a), abs(b), abs(c)
            largest = a if a > b else b
            largest = largest if largest > c else c
            beyond[x] = ON if largest > np.float32(limit[x]) else OFF
        if y % BLOCK == 0:
            strip[:] = ZERO
        for x in range(width):
            strip[x] += total[x]
        if y % BLOCK == BLOCK - 1 or y == height - 1:
            row = blocks[y // BLOCK]
            for block in range(row.shape[0]):
                part = ZERO
                for x in range(block * BLOCK, min(block * BLOCK + BLOCK, width)):
                    part += strip[x]
                row[block] = part


@kernel
def patches(signed, limits, scale, seeds, columns):  # type: ignore[no-untyped-def]
    """seeds (H, W) = 1 where the sum over a 5x5 patch is beyond limits (H, W) * scale.

    columns (W,) is scratch: sums of five rows.
    """
    height, width = signed.shape
    columns[:] = ZERO
    for y in range(min(PATCH, height)):
        row = signed[y]
        for x in range(width):
            columns[x] += row[x]
    for y in range(height):
        if y + PATCH < height:
            entering = signed[y + PATCH]
            for x in range(width):
                columns[x] += entering[x]
        if y > PATCH:
            leaving = signed[y - PATCH - 1]
            for x in range(width):
                columns[x] -= leaving[x]
        seeds[y, :] = OFF
        found, limit = seeds[y, PATCH:], limits[y, PATCH:]
        # views, because an index that could be negative is not vectorised
        a, b, c, d, e = columns, columns[1:], columns[2:], columns[3:], columns[4:]
        for x in range(width - 2 * PATCH):
            total = abs(a[x] + b[x] + c[x] + d[x] + e[x])
            found[x] = ON if total > np.float32(limit[x]) * scale else OFF


@kernel
def merge_opened(over, seeds, line):  # type: ignore[no-untyped-def]
    """seeds (H, W) |= 1 where all 3x3 of over are; line (W,) is scratch."""
    height, width = over.shape
    for y in range(1, height - 1):
        for x in range(width):
            line[x] = over[y - 1, x] & over[y, x] & over[y + 1, x]
        row, left, middle, right = seeds[y, 1:], line, line[1:], line[2:]
        for x in range(width - 2):
            row[x] |= left[x] & middle[x] & right[x]


@kernel
def patches(signed, limits, scale, seeds, columns):  # type: ignore[no-untyped-def]
    """seeds (H, W) = 1 where the sum over a 5x5 patch is beyond limits (H, W) * scale.

    columns (W,) is scratch: sums of five rows.
    """
    height, width = signed.shape
    columns[:] = 0
    for y in range(min(PATCH, height)):
        for x in range(width):
            columns[x] += np.int32(signed[y, x])
    for y in range(height):
        if y + PATCH < height:
            for x in range(width):
                columns[x] += np.int32(signed[y + PATCH, x])
        if y > PATCH:
            for x in range(width):
                columns[x] -= np.int32(signed[y - PATCH - 1, x])
        row, limit = seeds[y], limits[y]
        row[:] = OFF
        for x in range(PATCH, width - PATCH):
            total = np.int32(
                columns[x - 2] + columns[x - 1] + columns[x] + columns[x + 1] + columns[x + 2]
            )
            row[x] = np.uint8(abs(total) > np.int32(limit[x]) * np.int32(scale))


@kernel
def trip_blocks(blocks, height, width, limit, sweep, seeds):  # type: ignore[no-untyped-def]
    """seeds |= 1 in blocks whose mean is beyond the limit; where more than `sweep` of them are, in
    all whose mean is beyond half of it, so that a change of exposure comes in one frame."""
    tripped = 0
    for turn in range(2):
        for by in range(blocks.shape[0]):
            for bx in range(blocks.shape[1]):
                bottom, right = min(by * BLOCK + BLOCK, height), min(bx * BLOCK + BLOCK, width)
                size = (bottom - by * BLOCK) * (right - bx * BLOCK) * 3
                if abs(blocks[by, bx]) > limit * size:
                    tripped += 1
                    for y in range(by * BLOCK, bottom):
                        for x in range(bx * BLOCK, right):
                            seeds[y, x] = ON
        if turn == 1 or tripped <= sweep * blocks.shape[0] * blocks.shape[1]:
            return tripped
        limit *= 0.5
    return tripped


@kernel
def grow(seeds, margin, spread, live, mask):  # type: ignore[no-untyped-def]
    """mask (H, W) = seeds dilated by a square of `margin` pixels on each side; -> how many.

    spread (H, W) and live (H,) are scratch. Rows without seeds are passed over.
    """
    height, width = seeds.shape
    found = 0
    for y in range(height):
        any_on = OFF
        for x in range(width):
            any_on |= seeds[y, x]
            spread[y, x] = seeds[y, x]
        live[y] = any_on
        if any_on == OFF:
            continue
        found += 1
        for shift in range(1, min(margin, width - 1) + 1):
            before, behind = spread[y], spread[y, shift:]
            ahead, source = seeds[y, shift:], seeds[y]
            for x in range(width - shift):
                before[x] |= ahead[x]
            for x in range(width - shift):
                behind[x] |= source[x]
    mask[:, :] = OFF
    if found == 0:
        return 0
    count = 0
    for y in range(height):
        row = mask[y]
        for other in range(max(y - margin, 0), min(y + margin + 1, height)):
            if live[other] != OFF:
                near = spread[other]
                for x in range(width):
                    row[x] |= near[x]
        total = np.int32(0)
        for x in range(width):
            total += np.int32(row[x])
        count += total
    return count


@kernel
def take_over(image, mask, reference, bins):  # type: ignore[no-untyped-def]
    """reference (H, W, 3) = image where mask; bins (H, W) = the brightness there."""
    for y in range(mask.shape[0]):
        row = mask[y]
        any_on = OFF
        for x in range(row.shape[0]):
            any_on |= row[x]
        if any_on == OFF:
            continue
        for x in range(row.shape[0]):
            if row[x] != OFF:
                for c in range(3):
                    reference[y, x, c] = image[y, x, c]
                bins[y, x] = brightness(image[y, x, 0], image[y, x, 1], image[y, x, 2])


@kernel
def settle(mask, frames, thresholds, everywhere, bins, held, limits):  # type: ignore[no-untyped-def]
    """Count down held (H, W), the frames for which the lower threshold applies, and write limits
    (H, W) = thresholds[held, brightness], in the rows where something can have changed."""
    for y in range(mask.shape[0]):
        row, hold = mask[y], held[y]
        busy = OFF
        for x in range(row.shape[0]):
            busy |= row[x] | hold[x]
        if busy == OFF and not everywhere:
            continue
        for x in range(row.shape[0]):
            if row[x] != OFF:
                hold[x] = frames
            elif hold[x] != OFF:
                hold[x] -= ON
            limits[y, x] = thresholds[1 if hold[x] != OFF else 0, bins[y, x]]


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
