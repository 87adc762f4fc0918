"""A tuning profile: the settings of one model that `stillframe tune` found, as a JSON file.

    profile = TuningProfile.read("centerface.json")
    session = ReuseSession("centerface.onnx", tolerance=profile.shares)

It names the model by its weights, so it holds at every input size, and for no other model.
"""

import os
from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, field_validator

from stillframe.errors import UsageError
from stillframe.pipeline.inference.frame_skipping import FrameSkipping
from stillframe.reuse.gate.gate_settings import REPLACED, GateSettings, replaced
from stillframe.reuse.plan.tolerance import RULE, Tolerance, read_profile
from stillframe.yaml_file import fault_text

Share = Annotated[float, Field(ge=0, lt=1e6, allow_inf_nan=False)]


class Part(BaseModel):
    """Some frames of a clip, and what was measured on them with the profile."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    clip: str
    first: int
    """Number of the first frame, from 0."""
    frames: int
    windows: int = 1
    """In how many spans the frames lie."""
    role: str
    """What they were for: "search", "check" that it holds elsewhere, or "held out" from tuning."""
    kind: str
    """Of the quality."""
    quality: float
    """What is kept of computing everything, 0..1; of pictures in dB if that was asked for."""
    strict: float | None = None
    """Agreement at a hard limit, such as F1; None in profiles of before."""
    cost: float
    """Expected time as a share of computing everything, on the machine that tuned."""
    work: float
    """Multiply-adds done, as a share of all."""
    loss: float = 0.0
    """Of scores and shapes; 0: none."""
    uniform_cost: float | None = None
    """`cost` with the best single share that agreed as well in tuning; None: there is none."""
    uniform_work: float | None = None
    uniform_quality: float | None = None


class TuningProfile(BaseModel):
    """Shares of the layers, gate settings and frame skipping, and how they were found.

    Files use the keys of the first version: see the aliases.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rule: int = RULE
    """Version of the tolerance's meaning, see `reuse.plan.tolerance`."""
    stillframe: str
    """The version that tuned."""
    model: str
    """The model's name."""
    fingerprint: str
    """Of the model's weights, see `reuse.frontend.fingerprint`."""
    share: Share
    """Of layers that `layers` does not list."""
    layers: dict[str, Share] = Field(default_factory=dict)
    """Layer, by the tensor that it writes -> share."""
    gate: GateSettings = GateSettings()
    frame_skipping: FrameSkipping = Field(
        default=FrameSkipping(),
        validation_alias=AliasChoices("cadence", "frame_skipping"),
        serialization_alias="cadence",
    )
    target: float = Field(
        validation_alias=AliasChoices("wanted", "target"), serialization_alias="wanted"
    )
    """The agreement that was asked for."""
    parts: tuple[Part, ...] = ()
    """What was measured."""

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
        """Raises UsageError for a file that cannot be read, is no profile, or has another rule."""
        name = Path(path)
        values = read_profile(name)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            reason = fault_text(error.errors(), cls.model_fields)
        except UsageError as error:  # of the gate's settings or the frame skipping
            reason = str(error)
        raise UsageError(f"{name}: expected a profile from `stillframe tune`; {reason}")

    def write(self, path: str | os.PathLike[str]) -> None:
        """Replace the file at once, so that a reader never sees half of it. Raises OSError."""
        name = Path(path)
        part = name.with_name(f".{name.name}.part")
        text = self.model_dump_json(indent=2, by_alias=True)
        part.write_text(text + "\n", encoding="utf-8")
        part.replace(name)

    def check(self, fingerprint: str) -> None:
        """Raises UsageError unless the profile was made for the model with that fingerprint."""
        self.shares.check(fingerprint)
