"""Agreement of classes and of depths, on frames whose figures are known."""

import numpy as np
import pytest

from stillframe.errors import QualityError
from stillframe.models.results import Classes, Depth
from stillframe.pipeline.quality.agreement import MEASURES, agreement_with
from stillframe.pipeline.quality.clip import SIMILARITY
from stillframe.pipeline.quality.whole import ClassAgreement, DepthAgreement

LABELS = ("a", "b", "c")


def classes(*scores: float) -> Classes:
    return Classes(np.array(scores, np.float32), LABELS)


def test_classes_that_change_places_are_kept_but_not_strict() -> None:
    agreement = agreement_with(classes(0.5, 0.4, 0.1))
    assert isinstance(agreement, ClassAgreement)
    assert not agreement.telling
    agreement.add(classes(0.5, 0.4, 0.1), classes(0.5, 0.4, 0.1))
    agreement.add(classes(0.44, 0.46, 0.1), classes(0.46, 0.44, 0.1))  # nearly as likely
    assert (agreement.value, agreement.strict) == (1.0, 0.5)
    agreement.add(classes(0.1, 0.8, 0.1), classes(0.8, 0.1, 0.1))
    assert (agreement.value, agreement.strict) == pytest.approx((2 / 3, 1 / 3))
    both = ClassAgreement()
    both.merge(agreement)
    both.merge(agreement)
    assert (both.value, both.strict, both.telling) == pytest.approx((2 / 3, 1 / 3, True))
    with pytest.raises(QualityError, match="expected 3 scores, got 2"):
        agreement.add(Classes(np.zeros(2, np.float32), ("a", "b")), classes(1, 0, 0))


def test_depths_are_kept_within_a_factor() -> None:
    reference = Depth(np.array([[1, 2, 4, 0]], np.float32))
    result = Depth(np.array([[1.2, 1.7, 2, 0]], np.float32))  # the third is half
    agreement = agreement_with(reference)
    assert isinstance(agreement, DepthAgreement)
    agreement.add(result, reference)
    assert agreement.value == 0.75
    error = np.sqrt((0.2**2 + 0.3**2 + 2**2) / (1 + 4 + 16))
    assert agreement.strict == pytest.approx(1 - error, abs=1e-6)
    again = DepthAgreement()
    again.merge(agreement)
    again.add(reference, reference)
    assert again.value == 7 / 8
    with pytest.raises(QualityError, match="depth: expected shape"):
        agreement.add(Depth(np.zeros((2, 2), np.float32)), reference)


@pytest.mark.parametrize("result", [classes(0.5, 0.4, 0.1), Depth(np.ones((4, 4), np.float32))])
def test_what_is_equal_agrees_in_full(result: Classes | Depth) -> None:
    agreement = agreement_with(result)
    agreement.add(result, result)
    assert (agreement.value, agreement.strict, agreement.place) == (1.0, 1.0, None)
    assert SIMILARITY[type(result)](result, result) == 1.0
    assert MEASURES[agreement.kind].result is type(result)
