"""What an audit found: of one frame, and of all so far."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from stillframe.certificate import audits_text
from stillframe.errors import UsageError
from stillframe.pipeline.inference.types import StepResult
from stillframe.pipeline.quality.agreement import Agreement

DECIMALS = 4
MOST_UNCOVERED = 0.05
"""Share of the frames; if more are not covered, that is said."""
NOT_STEERED = "steering has no effect: the running backend has no tolerance"


@dataclass(frozen=True, slots=True)
class Audited:
    """One audited frame, for whoever steers by it."""

    step: StepResult
    """The step, its setting too; the frame's picture is gone."""
    agreement: Agreement | None
    """Of the result with the dense result of this frame; None: one of them is not a number."""
    newest: int
    """Index of the last frame that went out before the audit was through."""
    lower: float | None = None
    """The mean agreement of the run is at least this, as of now."""

    @property
    def telling(self) -> bool:
        """Whether there was anything to compare."""
        return self.agreement is not None and self.agreement.telling

    @property
    def kept(self) -> float | None:
        """Of this frame, 0..1; None: nothing to compare."""
        return self.agreement.value if self.agreement is not None and self.telling else None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values: a line of its own, since the frame's was written before the audit."""
        frame, agreement = self.step.frame, self.agreement
        compared = agreement if self.telling else None
        return {
            "event": "audit",
            "index": frame.index,
            "time_s": round(frame.time_s, 6),
            "kept": _rounded(self.kept),
            "strict": _rounded(compared.strict if compared else None),
            "place": _rounded(compared.place if compared else None),
            "lower": rounded_down(self.lower),
        }


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What audits measured and proved so far."""

    goal: float
    """The least agreement that was asked for."""
    floor: float
    """The least agreement that can be held: the goal, or the repeatability if that is lower."""
    audits: int = 0
    """Frames that were compared."""
    telling: int = 0
    """Those of them in which there was anything to compare."""
    empty: int = 0
    """Those in which there was nothing."""
    kept: float | None = None
    """The mean agreement of frames with anything to compare, 0..1; None: not known."""
    lower: float | None = None
    """It is at least this, with the confidence; None: nothing is proven."""
    lower_now: float | None = None
    """The same of recent audits alone."""
    confidence: float = 0.95
    certified: bool = False
    """Whether `lower` reaches the floor."""
    strict: float | None = None
    """The strict figure of all audited frames."""
    place: float | None = None
    kind: str | None = None
    """Of the agreement, a row of `agreement.MEASURES`."""
    repeatability: float | None = None
    """Kept of the network on the same frames with other noise of the camera; None: not known."""
    alarms: int = 0
    """How often agreement was noticed to fall below the floor."""
    whole: int = 0
    """Frames that were computed whole: they agree by definition and are not audited."""
    others: int = 0
    """Frames that audits were drawn from."""
    uncovered: int = 0
    """Frames that went out while audits lagged behind: no draw stands for them."""
    corrupt: int = 0
    """Corrupt frames, of which nothing is claimed."""
    undefined: int = 0
    """Audits in which an output was not a number."""
    share: float = 0.0
    """Of the processor time of the run, what audits took."""
    factor: float | None = None
    """Multiplies the tolerance now; None: nothing is steered by a factor."""
    unsteered: str = ""
    """Why steering has no effect."""
    failed: int = 0
    """Audits that failed."""
    why: str = ""
    """The error of the last one that failed."""

    def live_figures(self) -> dict[str, str]:
        """The certificate so far, in a few figures for people: name -> text."""
        kept = "not known yet" if self.kept is None else _shown(self.kept)
        proven = f">= {_shown(self.lower)} at {_percent(self.confidence)}" if self.lower else "none"
        return {"kept": kept, "bound": proven, "audits": str(self.telling)}

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        values = asdict(self)
        figures = {name: values[name] for name in values if name not in ("goal", "unsteered")}
        for name in ("kept", "strict", "place", "repeatability", "share"):
            figures[name] = _rounded(figures[name])
        for name in ("lower", "lower_now"):
            figures[name] = rounded_down(figures[name])
        # names that summaries always had
        figures |= {"wanted": self.goal, "agreement": figures["kept"], "missed": self.failed}
        return figures

    def __str__(self) -> str:
        """In words, on one line."""
        parts = [self._certificate()]
        if self.telling and self.empty:
            parts.append(f"nothing to compare in {self.empty} more")
        if self.floor < self.goal:
            parts.append(
                f"the network repeats itself to {_shown(self.floor)} only, when the camera's noise "
                f"changes: no floor above that can be held, {self.goal:g} was asked for"
            )
        elif self.lower is not None and not self.certified:
            parts.append(f"{self.goal:g} is not proven")
        if self.alarms:
            times = "once" if self.alarms == 1 else f"{self.alarms} times"
            parts.append(f"it fell below the floor {times} during the run")
        if self.uncovered > MOST_UNCOVERED * (self.whole + self.others):
            parts.append(f"{self.uncovered} frames are not covered: audits lagged behind")
        if self.corrupt:
            parts.append(f"{self.corrupt} corrupt frames are not covered")
        if self.unsteered:
            parts.append(self.unsteered)
        elif self.factor is not None and self.telling:
            parts.append(f"the tolerance is {self.factor:.2g} times what it was")
        if self.failed:
            parts.append(f"{self.failed} audits failed: {self.why}")
        return "; ".join(parts)

    def _certificate(self) -> str:
        if self.undefined:
            return (
                f"the network's outputs are not numbers in {self.undefined} of {self.audits} "
                "audits: no certificate"
            )
        if self.whole and not self.others:
            if self.kept is None:
                return (
                    f"each of {self.whole} frames was computed whole, and there was nothing to "
                    "compare in them: no certificate"
                )
            return f"kept 1: each of {self.whole} frames was computed whole"
        if self.lower is None:
            if self.audits:
                return f"nothing to compare in {audits_text(self.audits)}: no certificate"
            return "no frame was audited: no certificate"
        proven = f"(>= {_shown(self.lower)} at {_percent(self.confidence)})"
        if self.kept is None:
            return f"kept {proven}: {self.whole} frames were computed whole, no other was audited"
        what = " of the raw outputs" if self.kind == "closeness" else ""
        return (
            f"kept {_shown(self.kept)}{what} {proven}, {audits_text(self.telling)}, "
            f"{_percent(self.share)} of the work"
        )


def check_quality(quality: float, what: str = "quality") -> None:
    """Raise UsageError unless it is a share that can be kept."""
    if 0 < quality <= 1:
        return
    hint = ""
    if quality > 1:
        hint = "; it is a share: pictures are compared by SSIM, 0 to 1, and no longer in dB"
    raise UsageError(
        f"{what}: expected more than 0 and at most 1, for example 0.98, got {quality:g}{hint}"
    )


def rounded_down(value: float | None) -> float | None:
    """To DECIMALS, never up: a bound that is rounded up is not proven."""
    return None if value is None else math.floor(value * 10**DECIMALS) / 10**DECIMALS


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, DECIMALS)


def _shown(value: float) -> str:
    """With three decimals, never rounded up."""
    return f"{math.floor(value * 1000 + 1e-9) / 1000:.3f}"


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %"
