"""Old names of keyword arguments, and suggestions for names that nobody knows."""

import warnings
from dataclasses import dataclass

import pytest

from stillframe.names import RenamedWarning, renamed_keywords, suggestion


@renamed_keywords(room="queue_size")
def build(name: str, *, queue_size: int = 1) -> tuple[str, int]:
    """Of a name and a size."""
    return name, queue_size


@renamed_keywords(room="queue_size")
@dataclass(frozen=True, slots=True)
class Stage:
    name: str
    queue_size: int = 1


def test_an_old_keyword_works_and_warns_where_it_was_written() -> None:
    with pytest.warns(
        RenamedWarning, match=r"^build\(room=\) is now called queue_size=;"
    ) as caught:
        assert build("a", room=3) == ("a", 3)  # type: ignore[call-arg]
    assert caught[0].filename == __file__
    with pytest.warns(DeprecationWarning, match=r"^Stage\(room=\)"):
        assert Stage("a", room=3) == Stage("a", 3)  # type: ignore[call-arg]


def test_the_new_one_does_not_warn_and_both_are_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert build("a", queue_size=3) == ("a", 3)
        assert Stage("a", queue_size=3).queue_size == 3
    with pytest.raises(TypeError, match="got both 'queue_size' and its old name 'room'"):
        build("a", queue_size=3, room=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'rum'"):
        build("a", rum=3)  # type: ignore[call-arg]
    assert build.__doc__ == "Of a name and a size."


def test_the_nearest_name_is_suggested_if_one_is_near() -> None:
    assert suggestion("qualty", ["quiet", "quality", "quit"]) == " (did you mean 'quality'?)"
    assert suggestion("nonsense", ["confidence", "quality"]) == ""
