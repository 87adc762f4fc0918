"""What is wrong with a file of settings, in plain words."""

from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stillframe.yaml_file import LONGEST_VALUE, fault_text


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    depth: int = Field(1, ge=1)


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    mode: Literal["fast", "exact"] = "fast"
    mean: list[float] | float = 0.0
    inner: list[Inner] = []
    share: float = Field(0.5, gt=0, lt=1)
    name: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> "Outer":
        if self.name == "wrong":
            raise ValueError("expected a name that is right")
        return self


def text(values: Any, **options: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(values)
    return fault_text(caught.value.errors(), Outer.model_fields, **options)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"mode": "exat"}, "mode: expected fast or exact, got 'exat' (did you mean 'exact'?)"),
        ({"mode": 3}, "mode: expected fast or exact, got 3"),
        ({"meen": 1}, "unknown key 'meen' (did you mean 'mean'?)"),
        ({"str": 1}, "unknown key 'str'"),
        ({"[x]": 1}, "unknown key '[x]'"),
        ({"mean": [1, "a"]}, "mean.1: expected a number, got 'a'"),
        ({"mean": "a"}, "mean: expected a list or a number, got 'a'"),
        ({"inner": [{"depth": 0}]}, "inner.0.depth: expected 1 or more, got 0"),
        ({"inner": [{"deep": 0}]}, "inner.0: unknown key 'deep'"),
        ({"inner": 3}, "inner: expected a list, got 3"),
        ({"share": 0}, "share: expected more than 0, got 0"),
        ({"share": 1.5}, "share: expected less than 1, got 1.5"),
        ({"share": "half"}, "share: expected a number, got 'half'"),
        ({"name": ["a"]}, "name: expected text, got ['a']"),
        ("text", "expected names with values, got 'text'"),
        ({"name": "wrong"}, "expected a name that is right"),
    ],
)
def test_a_fault_is_worded_by_us(values: Any, says: str) -> None:
    assert text(values) == says


def test_values_are_shortened_or_left_out_and_rules_may_have_words() -> None:
    long = text({"share": "word " * 100})
    assert len(long) < LONGEST_VALUE + 60
    assert long.endswith("word …")
    assert text({"share": "secret"}, quote=False) == "share: expected a number"
    words = {"mean": "a number for each channel"}
    assert text({"mean": [1, "a"]}, words=words) == (
        "mean: expected a number for each channel, got 'a'"
    )
