"""Frames for a sweep's report, side by side: dense, reuse, what was recomputed, what differs."""

import base64
from dataclasses import dataclass
from itertools import islice

import cv2
import numpy as np
from numpy.typing import NDArray

from stillframe.models.model import Model
from stillframe.models.results import Detections, Mask, Picture, Result
from stillframe.pipeline.media.open_source import open_source
from stillframe.pipeline.quality.agreement import label_map
from stillframe.pipeline.quality.boxes import kept_rows, pair_boxes
from stillframe.pipeline.sinks.overlay import draw_result, tint_changes
from stillframe.pipeline.studies.sweep.sweep import Row, Sweep
from stillframe.pipeline.studies.sweep.variants import DenseVariant, RunnerVariant, VariantRow

Image = NDArray[np.uint8]

WIDEST = 560  # pixels of a picture in the report
QUALITY = 82  # of its JPEG
MISSED, INVENTED, HOVERING = (230, 40, 40), (255, 200, 0), (170, 170, 170)
LOUDER = 8  # by which differences of pictures are shown


@dataclass(frozen=True, slots=True)
class Shown:
    """One frame, as data addresses of its four pictures. why: in words."""

    index: int
    why: str
    quality: float
    work: float
    pictures: tuple[tuple[str, str], ...]


def moments(row: Row) -> dict[int, str]:
    """Which frames to show, and why: never the first, which is computed whole."""
    quality, work = np.array(row["frame_quality"]), np.array(row["frame_work"])
    if len(quality) < 2:
        return {}
    moments = {1 + int(np.argmin(quality[1:])): "least agreement"}
    moments.setdefault(1 + int(np.argmax(work[1:])), "most work")
    moments.setdefault(len(quality) // 2, "in the middle")
    return dict(sorted(moments.items()))


def frames(sweep: Sweep, spec: str, model: Model, row: Row, variant: VariantRow) -> list[Shown]:
    """Play the clip once more, up to the last of `moments`. Empty for variants without a runner."""
    reasons = moments(row)
    ours = variant.make(model)
    dense = DenseVariant(model, sweep.head["threads"])
    shown: list[Shown] = []
    try:
        if not isinstance(ours, RunnerVariant):
            return []
        with open_source(spec, live=False) as source:
            for index, frame in enumerate(islice(source, max(reasons, default=-1) + 1)):
                result = ours.play(frame).result
                if index not in reasons:
                    continue
                reference = dense.play(frame).result
                step = ours.last
                assert step is not None
                new = tint_changes(frame.image, step.changed, step.view)
                if step.kind != "computed":
                    new = frame.image
                pictures = {
                    "dense": drawn(frame.image, reference),
                    "reuse": drawn(frame.image, result),
                    "recomputed": new,
                    "difference": difference(frame.image, result, reference),
                }
                shown.append(
                    Shown(
                        index,
                        reasons[index],
                        row["frame_quality"][index],
                        row["frame_work"][index],
                        tuple((name, address(image)) for name, image in pictures.items()),
                    )
                )
    finally:
        ours.close()
        dense.close()
    return shown


def drawn(image: Image, result: Result) -> Image:
    return result.image if isinstance(result, Picture) else draw_result(image, result)


def difference(image: Image, result: Result, reference: Result) -> Image:
    """Boxes: missed ones red, invented ones yellow, those that hover at the limit grey.

    Masks: where labels differ. Pictures: how much.
    """
    if isinstance(result, Picture) and isinstance(reference, Picture):
        apart = cv2.absdiff(result.image, reference.image)
        return np.asarray(cv2.convertScaleAbs(apart, alpha=LOUDER), np.uint8)
    canvas = (image // 3).astype(np.uint8)
    if isinstance(result, Detections) and isinstance(reference, Detections):
        pairs, kept_boxes = pair_boxes(result, reference), kept_rows(result, reference)
        line = max(2, round(min(image.shape[:2]) / 200))
        for side, lost, met, are_kept in (
            (reference, MISSED, {theirs for _, theirs in pairs}, kept_boxes[1]),
            (result, INVENTED, {ours for ours, _ in pairs}, kept_boxes[0]),
        ):
            for number, box in enumerate(side.xyxy):
                if number not in met or not are_kept[number]:
                    colour = HOVERING if are_kept[number] else lost
                    left, top, right, bottom = (round(float(each)) for each in box)
                    cv2.rectangle(canvas, (left, top), (right, bottom), colour, line)
    elif isinstance(result, Mask) and isinstance(reference, Mask):
        canvas[label_map(result) != label_map(reference)] = MISSED
    return canvas


def address(image: Image) -> str:
    """A data address of the picture as JPEG, at most WIDEST pixels wide."""
    shrink = min(1.0, WIDEST / image.shape[1])
    small = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    bgr = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
    coded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    return "data:image/jpeg;base64," + base64.b64encode(coded.tobytes()).decode()
