"""A profile: how much each layer of one model may change, found by `stillframe tune`, as JSON.

    profile = Profile.read("centerface.json")
    session = ReuseSession("centerface.onnx", tolerance=profile.shares)

It names the model by its weights, so it holds at every input size, and serves no other one.
"""

import os
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from stillframe.errors import UsageError
from stillframe.pipeline.inference.frame_skipping import FrameSkipping
from stillframe.reuse.gate.change_gate import REPLACED, GateSettings, replaced
from stillframe.reuse.plan.tolerance import RULE, Tolerance, read_profile

Share = Annotated[float, Field(ge=0, lt=1e6, allow_inf_nan=False)]


class Part(BaseModel):
    """Some frames of a clip, and what the profile did on them.

    first, frames, windows: the first of its frames, counted from 0, how many they are, and in how
    many spans they lie. role: what they were for: "search", "check" that it
    holds elsewhere, or "held out" from tuning. quality: agreement with computing everything, of the
    kind named. cost: expected time, as a share of computing everything, on the machine that tuned.
    work: multiply-adds done, as a share of all. loss: of scores and shapes, 0: none. uniform_cost,
    uniform_work, uniform_quality: with the best single share that agreed as well in tuning; None:
    there is none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    clip: str
    first: int
    frames: int
    windows: int = 1
    role: str
    kind: str
    quality: float
    cost: float
    work: float
    loss: float = 0.0
    uniform_cost: float | None = None
    uniform_work: float | None = None
    uniform_quality: float | None = None


class TuningProfile(BaseModel):
    """Shares, gate settings, a cadence, and where they come from.

    rule: see RULE. stillframe: the version that tuned. model: its name. fingerprint: see
    `from_onnx.fingerprint`. share: of layers that `layers` does not list, by the names of
    the tensors that they write. wanted: the agreement asked for. parts: what was measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rule: int = RULE
    stillframe: str
    model: str
    fingerprint: str
    share: Share
    layers: dict[str, Share] = Field(default_factory=dict)
    gate: GateSettings = GateSettings()
    cadence: FrameSkipping = FrameSkipping()
    wanted: float
    parts: tuple[Part, ...] = ()

    @field_validator("gate", mode="before")
    @classmethod
    def _without_replaced(cls, gate: object) -> object:
        """The gate's settings without those of an older refresh, which was off."""
        if not isinstance(gate, dict):
            return gate
        for name in REPLACED:
            if gate.get(name):
                raise replaced(name)
        return {name: value for name, value in gate.items() if name not in REPLACED}

    @property
    def shares(self) -> Tolerance:
        return Tolerance(self.share, self.layers, self.model, self.fingerprint)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "TuningProfile":
        """Raises UsageError for what cannot be read, is no profile, or is one of another rule."""
        name = Path(path)
        values = read_profile(name)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "all of it"
            wrong = f"{where}: {first['msg']}"
        except UsageError as error:  # of the gate's settings or the cadence
            wrong = str(error)
        raise UsageError(f"{name}: expected a profile from `stillframe tune`; {wrong}")

    def write(self, path: str | os.PathLike[str]) -> None:
        """In place of what was there: a reader never sees half of it. Raises OSError."""
        name = Path(path)
        part = name.with_name(f".{name.name}.part")
        part.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        part.replace(name)

    def check(self, fingerprint: str) -> None:
        """Raises UsageError unless it was made for the model with that fingerprint."""
        self.shares.check(fingerprint)
