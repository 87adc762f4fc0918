"""Repeatability: how well a network agrees with itself when the camera shoots the same scene again.

    noise = CameraNoise()
    noise.add(fitted)                         # each frame, at the model's size
    again = noisy(fitted, noise.level, seed)  # the same scene, with other noise

    meter = RepeatMeter(model, run)           # both for a clip
    meter.add(fitted, view, dense)

The agreement of the dense result of `again` with that of `fitted` is the ceiling of any agreement:
no floor above it can be held.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stillframe.models.model import Model, View
from stillframe.models.results import Result
from stillframe.pipeline.quality.agreement import Agreement, agreement_with

if TYPE_CHECKING:  # loads kernels: slow, and most runs begin without them
    from stillframe.reuse.gate.noise import NoiseMeter

LEAST_LEVEL = 0.5
"""Grey levels: what rounding leaves, once in the camera's YUV and once in RGB. A compressed or
drawn clip repeats still pixels exactly, and shows less noise than its scene has."""
MOST_LEVEL = 12.0
"""Grey levels; more is taken for motion."""


DIGITS = 5
SEED = 20
"""Of the noise of studies."""

Run = Callable[[dict[str, NDArray[Any]]], Sequence[NDArray[Any]]]
"""Runs the whole network: inputs by name -> outputs in the graph's order."""


class CameraNoise:
    """The noise of one stream, measured between frames. Not thread-safe.

    Unlike the noise that the change gate assumes, it is not held within the gate's limits.
    """

    def __init__(self) -> None:
        self._meter: NoiseMeter | None = None

    def add(self, fitted: NDArray[np.uint8]) -> None:
        """Measure some rows of the next (H, W, 3) frame. Another size begins afresh."""
        from stillframe.reuse.gate.noise import NoiseMeter

        height, width = fitted.shape[:2]
        meter = self._meter
        if meter is None or (meter.height, meter.width) != (height, width):
            self._meter = NoiseMeter(height, width, 0.0, MOST_LEVEL * math.sqrt(2))
            self._meter.start(np.ascontiguousarray(fitted))
        else:
            meter.learn(np.ascontiguousarray(fitted))

    @property
    def level(self) -> float:
        """Standard deviation of a frame's noise, grey levels, at least LEAST_LEVEL.

        The meter has that of the difference between two frames, which is the square root of two
        times as large.
        """
        measured = 0.0 if self._meter is None else self._meter.overall / math.sqrt(2)
        return max(LEAST_LEVEL, measured)


def noisy(image: NDArray[np.uint8], level: float, seed: int | tuple[int, ...]) -> NDArray[np.uint8]:
    """The image with Gaussian noise of that standard deviation, in grey levels, in each value.

    The same seed gives the same noise.
    """
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(image.shape, np.float32)
    noise *= np.float32(level)
    noise += image
    np.rint(noise, out=noise)
    np.clip(noise, 0, 255, out=noise)
    return noise.astype(np.uint8)


class RepeatMeter:
    """The repeatability of a network over a clip.

    model: at the size of its frames. run: the dense network.
    """

    def __init__(self, model: Model, run: Run) -> None:
        self._model, self._run = model, run
        self._noise = CameraNoise()
        self._agreement: Agreement | None = None
        self._frames = 0
        """Compared."""
        self._level = 0.0
        """Sum of the noise over these."""

    def add(self, fitted: NDArray[np.uint8], view: View, dense: Result | None) -> None:
        """Take the next frame of the clip, at the model's size.

        dense: what the network says about it; None: only its noise is measured.
        """
        self._noise.add(fitted)
        if dense is None:
            return
        level = self._noise.level
        outputs = self._run(self._model.feed(noisy(fitted, level, (SEED, self._frames))))
        again = self._model.decode([np.array(each) for each in outputs], view)
        self._agreement = self._agreement or agreement_with(dense, place=True)
        self._agreement.add(again, dense)
        self._frames += 1
        self._level += level

    @property
    def kept(self) -> float | None:
        """The ceiling of what can be kept; None: there was nothing to compare."""
        whole = self._agreement
        return whole.value if whole is not None and whole.telling else None

    def figures(self) -> dict[str, float | int | None]:
        """kept, strict, place: repeatability, None where there was nothing to compare.

        noise_level: of the camera, grey levels, mean over the frames; frames: that were compared.
        """
        figures: dict[str, float | int | None] = dict.fromkeys(("kept", "strict", "place"))
        whole = self._agreement
        if whole is not None and whole.telling:
            values = {"kept": whole.value, "strict": whole.strict, "place": whole.place}
            figures |= {k: v if v is None else round(v, DIGITS) for k, v in values.items()}
        figures["noise_level"] = round(self._level / self._frames, DIGITS) if self._frames else None
        figures["frames"] = self._frames
        return figures


def in_words(figures: Mapping[str, float | int | None]) -> str:
    """The figures of `RepeatMeter` in a sentence; empty where there was nothing to compare."""
    if figures.get("kept") is None:
        return ""
    return (
        f"With the camera's own noise ({figures['noise_level']:.2g} grey levels) the dense network "
        f"keeps {figures['kept']:.4f} of its own results, strictly {figures['strict']:.4g}: its "
        "repeatability, which nothing can be asked to exceed."
    )


def lowered(asked: float, floor: float) -> str:
    """That a floor was above repeatability, with both figures; empty where it was not."""
    if floor >= asked:
        return ""
    return (
        f"with the camera's own noise this network keeps {floor:.4g} of its own results on this "
        f"clip, so {asked:g} cannot be held; {floor:.4g} is used instead"
    )
