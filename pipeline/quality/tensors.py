"""Agreement of raw outputs, whose meaning is unknown: their relative error."""

import math
from dataclasses import dataclass, field

import numpy as np

from stillframe.errors import QualityError
from stillframe.models.results import Tensors


@dataclass(slots=True)
class TensorAgreement:
    """Closeness: 1 - |result - reference| / |reference| of the worst output, at least 0.

    Euclidean norms over the clip. What a user of unknown outputs would miss is unknown too, so kept
    and strict are the same figure.
    """

    kind: str = "closeness"
    _errors: dict[str, float] = field(default_factory=dict)
    _sizes: dict[str, float] = field(default_factory=dict)

    def add(self, result: Tensors, reference: Tensors) -> None:
        if result.arrays.keys() != reference.arrays.keys():
            raise QualityError(
                f"tensors: expected {sorted(reference.arrays)}, got {sorted(result.arrays)}"
            )
        for name, values in reference.arrays.items():
            theirs = np.asarray(values, np.float64)
            ours = np.asarray(result.arrays[name], np.float64)
            size = float(np.sum(theirs**2))
            if ours.shape != theirs.shape:  # another number of rows: nothing agrees
                error = size or 1.0
            else:
                error = float(np.sum((ours - theirs) ** 2))
            self._errors[name] = self._errors.get(name, 0.0) + error
            self._sizes[name] = self._sizes.get(name, 0.0) + size

    def merge(self, other: "TensorAgreement") -> None:
        """Count the frames of another agreement too."""
        for mine, theirs in ((self._errors, other._errors), (self._sizes, other._sizes)):
            for name, value in theirs.items():
                mine[name] = mine.get(name, 0.0) + value

    @property
    def value(self) -> float:
        """Closeness, 0..1."""
        return min((self._closeness(name) for name in self._errors), default=1.0)

    @property
    def strict(self) -> float:
        """The same."""
        return self.value

    @property
    def telling(self) -> bool:
        """Whether there was any frame."""
        return bool(self._errors)

    @property
    def place(self) -> float | None:
        """Unknown outputs have no place."""
        return None

    @property
    def worst_error(self) -> float | None:
        """|result - reference| / |reference| of the worst output; None: it is unbounded."""
        return max((self._error(name) for name in self._errors), default=0.0, key=_or_infinite)

    def _closeness(self, name: str) -> float:
        error = self._error(name)
        return 0.0 if error is None else max(0.0, 1 - error)

    def _error(self, name: str) -> float | None:
        error, size = self._errors[name], self._sizes[name]
        if error == 0:
            return 0.0
        if not (size > 0 and math.isfinite(error)):
            return None
        return math.sqrt(error / size)


def _or_infinite(error: float | None) -> float:
    return math.inf if error is None else error
