"""What a model says about one frame: one validated dataclass a task.

Every result carries its evidence: whether it was computed from this frame, computed in part, or
carried over from an earlier one, and how old the oldest frame behind it is.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Provenance = Literal["computed", "partial", "reused"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Where a result comes from. age_s: seconds since the oldest frame that it rests on."""

    provenance: Provenance = "computed"
    age_s: float = 0.0
