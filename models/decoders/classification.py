"""Decoder of classifiers: one score for each class of the whole picture."""

from dataclasses import dataclass

import numpy as np

from stillframe.errors import ModelError
from stillframe.models.model import Form, Outputs, View
from stillframe.models.results import Classes


@dataclass(frozen=True, slots=True)
class ClassScores:
    """The first output, (1, classes) or (1, classes, 1, 1)."""

    raw: bool
    """Before the softmax."""

    def __call__(self, outputs: Outputs, view: View, form: Form) -> Classes:
        count = len(form.labels)
        scores = np.asarray(outputs[0], np.float32).reshape(-1)
        if len(scores) != count:
            got = "x".join(map(str, outputs[0].shape))
            raise ModelError(f"classification: expected {count} scores, one a label, got {got}")
        if self.raw:
            weight = np.exp(scores - scores.max())
            scores = weight / weight.sum()
        return Classes(np.clip(scores, 0, 1).astype(np.float32), form.labels)
