"""The ground truth of drawn clips as results, so that it can be the reference of a ClipJudge."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import numpy as np

from stillframe import sample_videos
from stillframe.models.results import Detections

SAMPLE = "sample:"
LEAST_VISIBLE = 0.25
"""Visible share below which a thing is not expected to be found."""
MEANS: dict[str, tuple[str, ...]] = {
    "face": ("face",),
    "person": ("person",),
    "car": ("car", "van"),
    "bus": ("bus",),
    "text": ("text",),
}
"""A model's label -> the labels of drawn things that it means."""


def true_boxes(spec: str, labels: tuple[str, ...], frames: int) -> list[Detections] | None:
    """The true boxes in each frame of a drawn clip, of the labels that can be drawn.

    None: the clip is not drawn, or none of its things has a label of the model. Draws the clip.
    """
    known = {thing: labels.index(label) for label in labels for thing in MEANS.get(label, ())}
    name, _, _ = spec.removeprefix(SAMPLE).partition("?")
    if not (spec.startswith(SAMPLE) and name in sample_videos.SCENES and known):
        return None
    return list(islice(_drawn(spec.removeprefix(SAMPLE), labels, known), frames))


def of_known(result: Detections) -> Detections:
    """Only the boxes with labels that drawn things can have: for others there is no truth."""
    keep = np.isin(result.class_id, [i for i, each in enumerate(result.labels) if each in MEANS])
    faint = None if result.faint is None else of_known(result.faint)
    return replace(result.rows(keep), faint=faint)


def _drawn(name: str, labels: tuple[str, ...], known: dict[str, int]) -> Iterator[Detections]:
    for frame in sample_videos.truth(name):
        seen = [t for t in frame.things if t.label in known and t.visible >= LEAST_VISIBLE]
        yield Detections(
            xyxy=np.array([thing.xyxy for thing in seen], np.float32).reshape(-1, 4),
            confidence=np.ones(len(seen), np.float32),
            class_id=np.array([known[thing.label] for thing in seen], np.int64),
            labels=labels,
        )
