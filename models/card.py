"""The model card: what an ONNX file does not say about itself, in `model.yaml` beside it.

    file: yolo11n.onnx
    task: yolov8
    labels: [person, bicycle, car]
    confidence: 0.4

Every key may be left out. `stillframe models describe X.onnx` writes the card of what is
recognised; options of a command line, and of `stillframe.load`, go before the card.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from stillframe.errors import ModelError, StillframeError, UsageError
from stillframe.models.formats.side_inputs import SideInputs
from stillframe.models.model import Form, Preprocessing, Sizing
from stillframe.names import suggestion
from stillframe.yaml_file import MAX_BYTES, fault_text, read_yaml

OWN_CARD, CARD = "{stem}.model.yaml", "model.yaml"
"""Names of cards beside a file: of this file alone, and of the folder's."""
WORDS = {
    "size": "HEIGHTxWIDTH such as 480x640",
    "scale": "a number, or a fraction such as 1/255",
    "mean": "a number for each channel",
    "std": "a number for each channel",
    "labels": "names, or a file with one in each line",
    "classes": "names of labels",
}
"""What is expected of keys, for messages."""
LABELS_SHOWN = 12
"""Labels that a message lists."""


def _size(value: Any) -> Any:
    """`480x640` -> (480, 640)."""
    return tuple(value.lower().split("x")) if isinstance(value, str) else value


def _number(value: Any) -> Any:
    """`1/255` -> 0.0039…"""
    if isinstance(value, str):
        try:
            return float(Fraction(value.replace(" ", "")))
        except (ValueError, ZeroDivisionError):
            return value
    return value


def _numbers(value: Any) -> Any:
    """`0.4,0.5,0.6`, or a single number, -> a list."""
    parts = value.split(",") if isinstance(value, str) else value
    return [_number(each) for each in (parts if isinstance(parts, list | tuple) else [parts])]


def _names(value: Any) -> Any:
    """`a,b,c`, or {0: a, 1: b}, -> a list."""
    if isinstance(value, dict) and list(value) == list(range(len(value))):
        return list(value.values())
    return [each.strip() for each in value.split(",")] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_names), Field(min_length=1)]
Numbers = Annotated[tuple[float, ...], BeforeValidator(_numbers), Field(min_length=1, max_length=3)]


class ModelCard(BaseModel):
    """What is stated of a model. Of a key that is left out, what is recognised applies."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    file: str | None = None
    """Name of the ONNX file; a `model.yaml` that names another file is not used."""
    task: str | None = None
    """As `--task`: a task, or a form."""
    labels: Names | None = None
    """Class names by class index, or a file beside the card with one in each line."""
    classes: Names | None = None
    """Only detections with these labels are reported."""
    confidence: Annotated[float, Field(ge=0, le=1)] | None = None
    """Detections with a lower score are dropped."""
    iou: Annotated[float, Field(gt=0, le=1)] | None = None
    """Suppression: of two boxes of a class that overlap this much, the weaker is dropped."""
    size: (
        Annotated[
            tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]], BeforeValidator(_size)
        ]
        | None
    ) = None
    """Height and width of the input, pixels, for every source."""
    layout: Literal["nchw", "nhwc"] | None = None
    """Where the channels are, for a file that leaves it open."""
    scale: Annotated[float, BeforeValidator(_number)] | None = None
    """The network's input is (pixel * scale - mean) / std, of pixels 0..255."""
    mean: Numbers | None = None
    """For each channel in the network's order, or one for all."""
    std: Numbers | None = None
    """As mean."""
    bgr: bool | None = None
    """Channels are blue, green, red."""
    fit: Literal["stretch", "letterbox"] | None = None
    """Whether the picture's aspect ratio is ignored, or kept and the rest filled."""
    fill: Annotated[int, Field(ge=0, le=255)] | None = None
    """Grey value of that rest."""
    constants: dict[str, Any] = {}
    """Values of inputs beside the picture: numbers, height, width, or lists of these."""
    state: dict[str, str] = {}
    """Output -> the input that gets it with the next frame; zeros at first."""

    @classmethod
    def checked(
        cls, values: Mapping[str, Any], where: str = "", error: type[StillframeError] = UsageError
    ) -> Self:
        """The card of these values, None for what is not stated. where: of messages."""
        stated = {name: value for name, value in values.items() if value is not None}
        try:
            return cls.model_validate(stated)
        except ValidationError as fault:
            text = fault_text(fault.errors(), cls.model_fields, WORDS)
            raise error(f"{where}{text}") from None

    @property
    def side(self) -> SideInputs:
        """What inputs beside the picture are fed."""
        return SideInputs(self.constants, self.state)


def read_card(path: Path) -> ModelCard:
    """The card in a file; an empty file states nothing. Raises ModelError for what is no card."""
    values = read_yaml(path, ModelError)
    if values is None:
        return ModelCard()
    if not isinstance(values, dict):
        raise ModelError(f"{path}: expected settings by name, got {type(values).__name__}")
    labels = values.get("labels")
    if isinstance(labels, str):
        values = values | {"labels": read_labels(labels, path.parent, f"{path}: ", ModelError)}
    return ModelCard.checked({str(k): v for k, v in values.items()}, f"{path}: ", ModelError)


def card_beside(onnx_file: Path) -> tuple[ModelCard, str]:
    """The card of an ONNX file, and its path; without one an empty card and "".

    A file that shares its folder's `model.yaml` with others has to be named in it.
    """
    if not onnx_file.is_file():
        return ModelCard(), ""
    own = onnx_file.with_name(OWN_CARD.format(stem=onnx_file.stem))
    if own.is_file():
        card = read_card(own)
        if card.file not in (None, onnx_file.name):
            raise ModelError(f"{own}: file: expected {onnx_file.name}, got {card.file}")
        return card, str(own)
    shared = onnx_file.with_name(CARD)
    if not shared.is_file():
        return ModelCard(), ""
    card = read_card(shared)
    return (card, str(shared)) if card.file in (None, onnx_file.name) else (ModelCard(), "")


def read_labels(
    text: str,
    folder: Path = Path(),
    where: str = "",
    error: type[StillframeError] = UsageError,
) -> list[str]:
    """`a,b,c`, or the names in a file: one in each line, or under `names` of a YAML file.

    folder: of a relative path. Raises `error`.
    """
    path = folder / text
    looks_like_a_file = path.suffix in (".txt", ".names", ".yaml", ".yml") or "/" in text
    if not (looks_like_a_file or ("," not in text and path.is_file())):
        return [each.strip() for each in text.split(",")]
    if path.suffix in (".yaml", ".yml"):
        values = read_yaml(path, error)
        names = _names(values.get("names") if isinstance(values, dict) else values)
        if not isinstance(names, list):
            raise error(f"{where}labels: expected names by number under 'names' of {path}")
        return [str(each) for each in names]
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise error(f"{where}labels: expected at most {MAX_BYTES} bytes in {path}, got more")
        lines = content.decode("utf-8-sig").splitlines()
    except OSError as fault:
        raise error(
            f"{where}labels: {path}: {(fault.strerror or 'cannot be read').lower()}; expected a "
            "file with a name in each line, or names as a,b,c"
        ) from fault
    except UnicodeDecodeError as fault:
        raise error(f"{where}labels: expected text in UTF-8 in {path}") from fault
    return [line.strip() for line in "\n".join(lines).rstrip().splitlines()]


@dataclass(frozen=True, slots=True)
class StatedCard:
    """A card together with where each of its values comes from, for messages."""

    card: ModelCard
    path: str
    """Of the card's file; "" without one."""
    title: str
    """Of the model."""
    options: frozenset[str] = field(default_factory=frozenset)
    """Names of values that were stated as options instead."""

    @classmethod
    def of(cls, onnx_file: Path, options: ModelCard) -> Self:
        """The card beside a file, with options going before it."""
        card, path = card_beside(onnx_file)
        return cls._merged(card, options, path, onnx_file.name)

    @classmethod
    def of_name(cls, name: str, options: ModelCard) -> Self:
        """Options alone: a model with a name has no card."""
        return cls._merged(ModelCard(), options, "", name)

    @classmethod
    def _merged(cls, card: ModelCard, options: ModelCard, path: str, title: str) -> Self:
        names = options.model_fields_set
        stated = {name: getattr(options, name) for name in names}
        return cls(card.model_copy(update=stated), path, title, frozenset(names))

    def where(self, name: str) -> str:
        """What precedes a message about one of the values."""
        return f"{self.title if name in self.options or not self.path else self.path}: {name}"

    def applied(self, form: Form) -> Form:
        """The form with what is stated. Raises ModelError where that contradicts the model.

        Where an option asks for plain tensors, what the card says of classes does not apply.
        """
        if form.task == "tensors" and "task" in self.options:
            unused = {name: None for name in ("labels", "classes") if name not in self.options}
            card = self.card.model_copy(update=unused)
            return replace(self, card=card)._with_card(form)
        return self._with_card(form)

    def _with_card(self, form: Form) -> Form:
        card = self.card
        form = replace(
            form,
            labels=form.labels if card.labels is None else self._labels(form),
            preprocessing=self._preprocessing(form.preprocessing),
        )
        if card.confidence is not None:
            form = replace(form, confidence=card.confidence)
        if card.iou is not None:
            form = replace(form, overlap=card.iou)
        if card.size is not None:
            form = replace(form, sizing=self._sizing(form, card.size))
        return form if card.classes is None else replace(form, classes=self._classes(form))

    def _sizing(self, form: Form, size: tuple[int, int]) -> Sizing:
        try:
            return Sizing(form.sizing.check(size))
        except ModelError as error:
            raise ModelError(f"{self.where('size')}: {error} (width x height)") from error

    def _labels(self, form: Form) -> tuple[str, ...]:
        labels = self.card.labels or ()
        if form.task in ("image", "depth", "tensors"):
            raise ModelError(
                f"{self.where('labels')}: expected none, as the model gives {form.task}, "
                f"got {len(labels)} names"
            )
        if not form.open_classes and len(labels) != len(form.labels):
            raise ModelError(
                f"{self.where('labels')}: expected {len(form.labels)} names, one for each class of "
                f"the model's outputs, got {len(labels)}"
            )
        return labels

    def _classes(self, form: Form) -> frozenset[str]:
        classes = self.card.classes or ()
        if form.task != "detection":
            raise ModelError(
                f"{self.where('classes')}: expected a model for detection, which has boxes to "
                f"choose from, got one for {form.task}"
            )
        for name in classes:
            if name not in form.labels:
                shown = ", ".join(form.labels[:LABELS_SHOWN])
                more = len(form.labels) - LABELS_SHOWN
                raise ModelError(
                    f"{self.where('classes')}: expected labels of the model ({shown}"
                    f"{f' and {more} more' if more > 0 else ''}), got {name!r}"
                    f"{suggestion(name, form.labels)}"
                )
        return frozenset(classes)

    def _preprocessing(self, own: Preprocessing) -> Preprocessing:
        card = self.card
        ranged = [name for name in ("scale", "mean", "std") if getattr(card, name) is not None]
        if own.element == "uint8" and ranged:
            raise ModelError(
                f"{self.where(ranged[0])}: expected none, as the model takes bytes (uint8) and "
                "scales them itself"
            )
        if card.bgr and own.channels == 1:
            raise ModelError(f"{self.where('bgr')}: expected a model of 3 channels, got one of 1")
        order = own.order
        if card.bgr is not None and own.channels == 3:
            order = "bgr" if card.bgr else "rgb"
        if card.std is not None and 0 in card.std:
            raise ModelError(f"{self.where('std')}: expected numbers other than 0, got 0")
        return replace(
            own,
            order=order,
            scale=own.scale if card.scale is None else card.scale,
            mean=self._channels("mean", own) or own.mean,
            deviation=self._channels("std", own) or own.deviation,
            fit=card.fit or own.fit,
            fill=own.fill if card.fill is None else card.fill,
        )

    def _channels(self, name: str, own: Preprocessing) -> tuple[float, ...] | None:
        """A number for each of three channels; None where none is stated."""
        stated: tuple[float, ...] | None = getattr(self.card, name)
        if stated is None:
            return None
        if len(stated) not in (1, own.channels):
            raise ModelError(
                f"{self.where(name)}: expected 1 or {own.channels} numbers, got {len(stated)}"
            )
        return stated if len(stated) == 3 else stated * 3


def card_text(form: Form, file: str) -> str:
    """The card, as YAML, of what a form says. Read back, it gives the same form."""
    preprocessing = form.preprocessing
    values: dict[str, Any] = {"file": file, "task": form.name}
    if form.labels and not form.open_classes:
        values["labels"] = list(form.labels)
    if form.classes:
        values["classes"] = sorted(form.classes)
    if form.task == "detection":
        values |= {"confidence": form.confidence, "iou": form.overlap}
    if not form.sizing.longest:  # otherwise it follows the source
        values["size"] = list(form.sizing.base)
    values["layout"] = preprocessing.layout
    if preprocessing.element != "uint8":
        values |= {
            "scale": preprocessing.scale,
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.deviation),
        }
        if preprocessing.channels == 1:
            values |= {
                "mean": list(preprocessing.mean[:1]),
                "std": list(preprocessing.deviation[:1]),
            }
    if preprocessing.channels == 3:
        values["bgr"] = preprocessing.order == "bgr"
    values |= {"fit": preprocessing.fit, "fill": preprocessing.fill}
    if form.side.constants:
        values["constants"] = {name: _plain(v) for name, v in form.side.constants.items()}
    if form.side.state:
        values["state"] = dict(form.side.state)
    lines = [
        f"# Model card of {file}: put it beside the file, as {CARD}"
        f" or {OWN_CARD.format(stem=Path(file).stem)}.",
        "# Every line may be left out; what is recognised then applies.",
    ]
    for name, value in values.items():
        text = yaml.safe_dump(value, default_flow_style=True, width=100, allow_unicode=True)
        lines.append(f"{name}: {text.removesuffix('...' + chr(10)).rstrip()}")
    return "\n".join(lines)


def _plain(value: Any) -> Any:
    """Tuples as lists, as YAML has them."""
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
