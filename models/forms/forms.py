"""What the outputs of an unknown ONNX file mean: from shapes and names, or as --task states.

FORMS lists the known forms, the most specific first; the first that matches is taken. Each name is
also a value of --task, as are the four tasks themselves, which narrow the choice. The preprocessing
of a form is what its authors publish, because a file does not record what it was trained on.
"""

from pathlib import Path

from stillframe.errors import ModelError
from stillframe.models.forms import boxes, maps, yolo
from stillframe.models.forms.inspection import InspectedModel
from stillframe.models.forms.rule import FormRule
from stillframe.models.model import TASKS, Form

FORMS: dict[str, FormRule] = {rule.name: rule for rule in (*yolo.RULES, *boxes.RULES, *maps.RULES)}
ACCEPTED: tuple[str, ...] = (*TASKS, *(name for name in FORMS if name != "raw"))
"""The values of --task."""


def recognise(path: Path, task: str | None = None, size: tuple[int, int] | None = None) -> Form:
    """The form of an ONNX file. Raises ModelError, with the file's outputs, if none matches.

    task: one of ACCEPTED. size: (H, W) to examine the file at, if it leaves its input size open.
    """
    if task is not None and task not in ACCEPTED:
        raise ModelError(f"unknown task {task!r}: expected one of {', '.join(ACCEPTED)}")
    model = InspectedModel.open(path, size)
    if task == "tensors":
        return FORMS["raw"].form(model)
    rules = [rule for rule in FORMS.values() if task in (None, rule.name, rule.task)]
    for rule in rules:
        if rule.matches(model):
            return rule.form(model)
    if task is None:
        raise ModelError(
            f"{path.name}: the meaning of its outputs is not recognised: {model}; state it with "
            f"--task, one of {', '.join(ACCEPTED)} (tensors gives them unchanged)"
        )
    expected = "; or ".join(rule.description for rule in rules)
    raise ModelError(f"{path.name}: --task {task} expects {expected}; it has {model}")
