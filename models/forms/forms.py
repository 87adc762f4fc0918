"""What an unknown ONNX file's outputs mean: recognised from shapes and names, or said by --task.

FORMS lists the forms that are known, the more particular first; the first that fits is taken. Each
name is also a value of --task, as are the four tasks themselves, which narrow the choice. How
pictures are normalised is what the makers of each form publish: a file cannot say what it was
trained on.
"""

from pathlib import Path

from stillframe.errors import ModelError
from stillframe.models.forms import boxes, maps, yolo
from stillframe.models.forms.inspection import Seen
from stillframe.models.forms.rule import FormRow
from stillframe.models.model import TASKS, Form

FORMS: dict[str, FormRow] = {row.name: row for row in (*yolo.ROWS, *boxes.ROWS, *maps.ROWS)}
ACCEPTED: tuple[str, ...] = (*TASKS, *(name for name in FORMS if name != "raw"))
"""The values of --task."""


def recognise(path: Path, task: str | None = None, size: tuple[int, int] | None = None) -> Form:
    """The form of an ONNX file. task: one of ACCEPTED. size: (H, W) to look at it with, where the
    file leaves that open. ModelError says what was seen and which words are accepted."""
    if task is not None and task not in ACCEPTED:
        raise ModelError(f"unknown task {task!r}: expected one of {', '.join(ACCEPTED)}")
    seen = Seen.at(path, size)
    if task == "tensors":
        return FORMS["raw"].form(seen)
    rows = [row for row in FORMS.values() if task in (None, row.name, row.task)]
    for row in rows:
        if row.fits(seen):
            return row.form(seen)
    if task is None:
        raise ModelError(
            f"{path.name}: what its outputs mean is not recognised: {seen}; say it with --task, "
            f"one of {', '.join(ACCEPTED)} (tensors gives them as they are)"
        )
    wanted = "; or ".join(row.says for row in rows)
    raise ModelError(f"{path.name}: --task {task} expects {wanted}; it has {seen}")
