"""The change gate: which pixels of a frame count as new.

A frame is compared with the *reference*, the picture that the stored activations belong to, and not
with the frame before: so slow changes add up until they are seen. The reference takes over the new
pixels and no others.

A pixel is new where
- it and its eight neighbours are all beyond their limits (smaller specks are noise: the 3x3 opening
  of mathematical morphology);
- or the mean over the 5x5 pixels around it is beyond PATCH_SHARE of the limit (low contrast);
- or the mean over its block of 16x16 is beyond `drift_limit` (slow drift, exposure).
A limit is a multiple of the measured noise at the pixel's brightness. New areas grow by a margin,
and softer limits apply for some frames after motion. docs/explanation/gate.md states what follows
from this, and what it saves.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stillframe.errors import UsageError
from stillframe.reuse.gate.change_map import Bytes, ChangeMap
from stillframe.reuse.gate.gate_settings import GateSettings
from stillframe.reuse.gate.noise import NoiseMeter
from stillframe.reuse.kernels.change_gate import (
    BLOCK,
    OFF,
    ON,
    PATCH,
    SIDE,
    differs,
    drift,
    find,
    grow,
    look_up_rows,
    same,
    take_over,
)

TURN = 16  # frames in which each row's limits are updated once
FIRST = "first frame"


@dataclass(slots=True)
class _Scratch:
    """Buffers of the passes over a picture, see `kernels.change_gate`."""

    seeds: Bytes
    sown: Bytes
    totals: NDArray[np.int32]
    columns: NDArray[np.int16]
    history: NDArray[np.int16]
    strip: NDArray[np.int16]
    sizes: Bytes
    over: Bytes
    eroded: Bytes
    near: Bytes
    one: Bytes
    other: Bytes

    @classmethod
    def of(cls, height: int, width: int, margin: int) -> "_Scratch":
        def empty(*shape: int) -> Bytes:
            return np.zeros(shape, np.uint8)

        return cls(
            seeds=empty(height, width),
            sown=empty(height),
            totals=np.zeros((-(-height // BLOCK), -(-width // BLOCK)), np.int32),
            columns=np.zeros(3 * (width + 2 * PATCH), np.int16),
            history=np.zeros((SIDE, 3 * width), np.int16),
            strip=np.zeros(3 * width, np.int16),
            sizes=empty(3 * width),
            over=empty(width),
            eroded=empty(4, width),
            near=empty(width),
            one=empty(width + 2 * margin),
            other=empty(width + 2 * margin),
        )


@dataclass(slots=True)
class ChangeGate:
    """Finds what is new in the frames of one stream, all (height, width, 3) uint8.

    Nothing but the small objects that are returned is allocated after construction. Not safe to use
    from two threads.
    """

    height: int
    width: int
    settings: GateSettings = field(default_factory=GateSettings)
    reference: Bytes = field(init=False, repr=False)
    """(height, width, 3) uint8: the picture to feed to the model; always the same array."""
    limits: Bytes = field(init=False, repr=False)
    """(height, width) uint8: limits of the largest channel difference in the last step."""
    drift_limit: float = field(init=False, default=0.0)
    """Limit of a block's mean difference in the last step."""
    noise: NoiseMeter = field(init=False)
    """The measured noise."""
    _first: bool = field(init=False, repr=False, default=True)  # no trusted frame yet
    _turn: int = field(init=False, repr=False, default=0)
    _mask: Bytes = field(init=False, repr=False)
    _touched: Bytes = field(init=False, repr=False)
    _soft_frames: Bytes = field(init=False, repr=False)
    _soft_rows: Bytes = field(init=False, repr=False)
    _table: Bytes = field(init=False, repr=False)
    _scratch: _Scratch = field(init=False, repr=False)

    def __post_init__(self) -> None:
        height, width, settings = self.height, self.width, self.settings
        if height < 1 or width < 1:
            raise UsageError(
                f"change gate: expected a picture of at least 1x1, got {width}x{height}"
            )
        self.reference = np.zeros((height, width, 3), np.uint8)
        self.limits = np.zeros((height, width), np.uint8)
        self.noise = NoiseMeter(height, width, settings.least_noise, settings.most_noise)
        self._mask = np.zeros((height, width), np.uint8)
        self._touched = np.zeros(height, np.uint8)
        self._soft_frames = np.zeros((height, width), np.uint8)
        self._soft_rows = np.zeros(height, np.uint8)
        self._table = np.zeros(self.noise.sigma.shape, np.uint8)
        self._scratch = _Scratch.of(height, width, settings.margin)
        self.reset()

    def reset(self) -> None:
        """Forget everything, also the noise: the next frame is the first of another stream."""
        self.noise.reset()
        self._follow_noise()
        self._turn = 0
        self._first = True

    def step(
        self, image: Bytes, *, trust: bool = True, renew: tuple[int, int] = (0, 0)
    ) -> ChangeMap:
        """What is new in the next frame; the reference takes it over.

        renew: rows [first, end) that are new in any case. trust: False for a corrupt frame: nothing
        of it is new, taken over or learnt; only if there is no reference yet, all of it is new, and
        so is all of the next frame. Raises UsageError for a frame of another size or dtype.
        """
        if image.shape != self.reference.shape or image.dtype != np.uint8:
            raise UsageError(
                f"change gate: expected {self.reference.shape} uint8,"
                f" got {image.shape} {image.dtype}; one gate serves one size"
            )
        image = np.ascontiguousarray(image)
        if not trust:
            return self._distrust(image)
        if self._first:
            return self._all(image, FIRST)
        count = self._differing(image) if self.settings.exact else self._beyond_noise(image)
        if renew[1] > renew[0]:
            self._mask[slice(*renew)] = ON
            self._touched[slice(*renew)] = ON
            count = int(np.count_nonzero(self._mask))
        if count == 0:
            return ChangeMap(self._mask, 0.0, "unchanged", "no difference beyond the limits")
        active = count / self._mask.size
        reason = f"{active:.1%} of the picture is new"
        if active > self.settings.flush:
            return self._all(image, reason)
        take_over(
            self._rows(image), self._mask, self._touched, self._table,
            self._rows(self.reference), self.limits,
        )  # fmt: skip
        return ChangeMap(self._mask, active, "partial", reason, renew)

    def _rows(self, image: Bytes) -> Bytes:
        return image.reshape(self.height, -1)

    def _distrust(self, image: Bytes) -> ChangeMap:
        reason = "the frame is corrupt"
        if self._first:
            np.copyto(self.reference, image)
            self._mask[...] = ON
            return ChangeMap(self._mask, 1.0, "all", reason)
        self._mask[...] = OFF
        return ChangeMap(self._mask, 0.0, "unchanged", reason)

    def _differing(self, image: Bytes) -> int:
        """Fill the mask by plain inequality; -> pixels in it."""
        return int(
            differs(self._rows(image), self._rows(self.reference), self._mask, self._touched)
        )

    def _beyond_noise(self, image: Bytes) -> int:
        """Fill the mask by the limits; -> pixels in it."""
        settings, use, reference = self.settings, self._scratch, self._rows(self.reference)
        if same(image.reshape(-1), reference.reshape(-1)):
            self._mask[...] = OFF
            self._touched[...] = OFF
            return 0
        self.noise.learn(image)
        self._follow_noise()
        self._turn = (self._turn + 1) % TURN
        look_up_rows(reference, self._table, self._turn, TURN, self.limits)
        find(
            self._rows(image), reference, self.limits, self._soft_frames, self._soft_rows,
            round(256 * settings.soft), use.seeds, use.sown, use.totals,
            use.columns, use.history, use.strip, use.sizes, use.over, use.eroded,
        )  # fmt: skip
        drift(use.totals, self.drift_limit, settings.sweep, use.seeds, use.sown)
        count = grow(
            use.seeds, use.sown, settings.margin, settings.hold, self._mask,
            self._touched, self._soft_frames, self._soft_rows, use.one, use.other, use.near,
        )  # fmt: skip
        return int(count)

    def _follow_noise(self) -> None:
        """Limits by brightness, and for blocks, from the noise as measured so far."""
        np.rint(self.noise.sigma * self.settings.pixel, out=self._table, casting="unsafe")
        self.drift_limit = self.noise.overall * self.settings.block

    def _adopt(self, image: Bytes) -> None:
        """Make all of the image the reference."""
        np.copyto(self.reference, image)
        look_up_rows(self._rows(self.reference), self._table, 0, 1, self.limits)

    def _all(self, image: Bytes, reason: str) -> ChangeMap:
        self._first = False
        self._soft_frames[...] = OFF
        self._soft_rows[...] = OFF
        self._adopt(image)
        self.noise.start(image)
        self._mask[...] = ON
        return ChangeMap(self._mask, 1.0, "all", reason)
