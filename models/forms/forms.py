"""What the outputs of an unknown ONNX file mean: from shapes and names, or as --task states.

FORMS is the table of known forms. The one that matches best is taken; where two match
equally well the file is refused, because a guess would be silently wrong. Each name is also a
value of --task, as are the tasks themselves, which narrow the choice. The preprocessing of a form
is what its authors publish, because a file does not record what it was trained on.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from stillframe.errors import ModelError
from stillframe.models.formats.onnx_file import Layout
from stillframe.models.formats.side_inputs import SideInputs
from stillframe.models.forms import anchors, boxes, maps, queries, whole, yolo
from stillframe.models.forms.inspection import InspectedModel
from stillframe.models.forms.rule import FormRule, Match
from stillframe.models.model import TASKS, Form
from stillframe.names import suggestion

_RULES = (*yolo.RULES, *queries.RULES, *boxes.RULES, *anchors.RULES, *whole.RULES, *maps.RULES)
FORMS: dict[str, FormRule] = {rule.name: rule for rule in _RULES}
ACCEPTED: tuple[str, ...] = (*TASKS, *(name for name in FORMS if name != "raw"))
"""The values of --task."""


def recognise(
    path: Path,
    task: str | None = None,
    size: tuple[int, int] | None = None,
    *,
    side: SideInputs | None = None,
    labels: tuple[str, ...] | None = None,
    layout: Layout | None = None,
) -> Form:
    """The form of an ONNX file. Raises ModelError, with the file's outputs, if none or two match.

    task: one of ACCEPTED. size: (H, W) to examine the file at, if it leaves its input size open.
    side, labels, layout: what is stated of the file, see `InspectedModel.open`.
    """
    if task is not None and task not in ACCEPTED:
        raise ModelError(
            f"unknown task {task!r}: expected one of {', '.join(ACCEPTED)}"
            f"{suggestion(task, ACCEPTED)}"
        )
    model = InspectedModel.open(path, size, side, labels, layout)
    if task == "tensors":
        return replace(FORMS["raw"].form(model), name="tensors")
    rules = [rule for rule in FORMS.values() if task in (None, rule.name, rule.task)]
    strengths = [(rule.strength(model), rule) for rule in rules]
    best = max(strength for strength, _ in strengths)
    fitting = [rule for strength, rule in strengths if strength == best]
    if best is Match.NONE or (task is None and best is Match.POSSIBLE):
        raise _unknown(model, task, rules, fitting if best else [])
    if len(fitting) > 1:
        either = " or ".join(f"{rule.name} ({rule.description})" for rule in fitting)
        first = " or ".join(f"--task {rule.name}" for rule in fitting)
        raise ModelError(
            f"{path.name}: its outputs may be {either}; it has {model}; state which: {first}, "
            "or --task tensors, which gives them unchanged"
        )
    return replace(fitting[0].form(model), name=fitting[0].name)


def _unknown(
    model: InspectedModel, task: str | None, rules: Sequence[FormRule], possible: Sequence[FormRule]
) -> ModelError:
    """possible: rules that the shapes do not contradict, though nothing else speaks for them."""
    name = model.path.name
    if task is not None:
        expected = "; or ".join(rule.description for rule in rules)
        return ModelError(f"{name}: --task {task} expects {expected}; it has {model}")
    perhaps = " or ".join(f"{rule.name} ({rule.description})" for rule in possible)
    return ModelError(
        f"{name}: the meaning of its outputs is not recognised: {model}; "
        f"{f'their shape allows {perhaps}; ' if possible else ''}state it with "
        f"--task, one of {', '.join(ACCEPTED)} (tensors gives them unchanged)"
    )
