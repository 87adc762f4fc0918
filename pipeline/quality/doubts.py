"""Whether a clip has enough in it to judge settings on."""

from dataclasses import dataclass

LEAST_FRAMES = 30
"""With fewer in which there is anything, one frame decides."""
LEAST_OBJECTS = 30
"""With fewer, one object more or less decides whether 0.98 is reached."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """A reason why a clip cannot tell settings apart."""

    text: str
    hopeless: bool
    """Nothing can be recommended; else only with caution."""


def too_little(frames: int, telling: int | None, objects: int | None) -> list[Doubt]:
    """What a clip lacks; empty: nothing.

    telling: frames in which there was anything to compare; objects: boxes of the reference, None:
    results are of another kind; each None: not known.
    """
    if telling == 0:
        what = "anything" if objects is None else "objects"
        return [Doubt(f"the network does not find {what} in its {frames} frames", True)]
    reasons = []
    if telling is not None and telling < LEAST_FRAMES:
        text = f"{telling} of its frames have anything to compare, {LEAST_FRAMES} are needed"
        reasons.append(Doubt(text, False))
    if objects is not None and objects < LEAST_OBJECTS:
        text = f"the network finds {objects} objects in all frames, {LEAST_OBJECTS} are needed"
        reasons.append(Doubt(text, False))
    return reasons
