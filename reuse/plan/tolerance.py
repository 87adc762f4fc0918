"""How much a layer may change before the change counts."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stillframe.errors import UsageError

if TYPE_CHECKING:  # the compiler: slow to import, and a profile is read without it
    from stillframe.reuse.plan.plan import Plan

RULE = 2
"""Version of the rule that gives shares their meaning. Profiles of another rule are refused."""


MOST_FAR = 0.3
"""Of a layer's root mean square: no far limit goes beyond it, unless the near one does. From 0.4 on
new objects are found late, see docs/explanation/quality.md."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """A share for each layer.

    A position has changed if the root mean square over channels of its change is more than that
    share of the root mean square of the whole layer; or more than a third of it, together with both
    neighbours in the row, see `kernels.store`. In a layer with share 0 every change counts. If all
    shares are 0, the tolerance is exact: unchanged means that every bit is equal.
    """

    share: float
    """Of the layers that `layers` does not list."""
    layers: Mapping[str, float] = field(default_factory=dict)
    """By the name of a layer's output."""
    model: str = field(default="", compare=False)
    """Name of the model that the shares were tuned for; empty: any model."""
    fingerprint: str = field(default="", compare=False)
    """Fingerprint of that model's weights, see `frontend.fingerprint`; empty: any."""
    far: float = 1.0
    """Where the far limit applies the shares are so many times larger, up to MOST_FAR; see
    `ReuseSession.attend`."""

    def __post_init__(self) -> None:
        for name, share in (("tolerance", self.share), *self.layers.items()):
            if not (share >= 0 and np.isfinite(share)):
                raise UsageError(f"{name}: expected a number >= 0, got {share}")
        if not (self.far >= 1 and np.isfinite(self.far)):
            raise UsageError(f"far: expected a number >= 1, got {self.far}")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Tolerance":
        """The shares in a profile that `stillframe tune` wrote.

        Raises UsageError for a file that cannot be read, is no profile, or is of another rule.
        """
        values = read_profile(path)
        try:
            return cls(
                float(values["share"]),
                {str(name): float(share) for name, share in values.get("layers", {}).items()},
                str(values["model"]),
                str(values["fingerprint"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise UsageError(
                f"{path}: expected a profile from `stillframe tune`; {reason}"
            ) from None

    def check(self, fingerprint: str) -> None:
        """Raises UsageError where the shares were tuned for other weights than these."""
        if self.fingerprint and fingerprint != self.fingerprint:
            raise UsageError(
                f"the profile was made for {self.model}, weights {self.fingerprint[:12]}; "
                f"this model's are {fingerprint[:12]}: tune a profile for it"
            )

    @property
    def exact(self) -> bool:
        return self.share == 0.0 and not any(self.layers.values())

    def of(self, name: str) -> float:
        """The share of one layer."""
        return self.layers.get(name, self.share)

    def far_of(self, name: str) -> float:
        """The share of one layer where the far limit applies."""
        share = self.of(name)
        return max(share, min(share * self.far, MOST_FAR))

    def scaled(self, factor: float) -> "Tolerance":
        """All shares times the factor: 1 is the same, 0 exact."""
        layers = {name: share * factor for name, share in self.layers.items()}
        return replace(self, share=self.share * factor, layers=layers)

    def apply(self, plan: "Plan", magnitudes: Mapping[str, float]) -> None:
        """Turn shares into thresholds of a plan. magnitudes: see `measure`; absent ones are 0."""
        if self.exact:
            return
        for name in plan.compared:
            channels = plan.graph.shapes[name][2]
            magnitude = magnitudes.get(name, 0.0)
            near, far = (
                _squared(share * magnitude, channels)
                for share in (self.of(name), self.far_of(name))
            )
            plan.set_threshold(name, near, far)


def _squared(change: float, channels: int) -> float:
    """The sum of squared differences of a root mean square change; 0 where there is none."""
    with np.errstate(over="ignore"):
        limit = np.float32(change**2 * channels)
    return float(limit) if np.isfinite(limit) else 0.0


def measure(plan: "Plan") -> dict[str, float]:
    """The root mean square of each cut-off, from what is stored after a dense step."""
    magnitudes = {}
    for name in plan.compared:
        values = plan.view(name)
        flat = values.reshape(-1) if values.flags.c_contiguous else values.ravel()
        with np.errstate(over="ignore", invalid="ignore"):
            magnitudes[name] = float(np.sqrt(np.dot(flat, flat) / max(flat.size, 1)))
    return magnitudes


def read_profile(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON object in a profile's file. Raises UsageError, also for another rule's profile."""
    name = Path(path)
    try:
        values = json.loads(name.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{name}: expected a profile, cannot read it ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name}: expected a profile in JSON, got {error}") from None
    if not isinstance(values, dict):
        raise UsageError(
            f"{name}: expected a profile from `stillframe tune`; all of it: expected an object"
        )
    rule = values.get("rule")
    if isinstance(rule, int) and rule != RULE:
        raise UsageError(
            f"{name}: expected a profile of rule {RULE}, got one of rule {rule}, made by "
            f"stillframe {values.get('stillframe', '?')}: tune again"
        )
    return values
