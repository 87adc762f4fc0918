"""Blur every face of a clip; the copy keeps its timing and its sound."""

import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

import stillframe

MARGIN = 0.25


def blurred(image: NDArray[np.uint8], faces: stillframe.Detections) -> NDArray[np.uint8]:
    """A copy with each box, and a margin around it, made unrecognisable."""
    image = image.copy()
    height, width = image.shape[:2]
    for left, top, right, bottom in faces.xyxy.tolist():
        x_margin, y_margin = (right - left) * MARGIN, (bottom - top) * MARGIN
        rows = slice(max(0, int(top - y_margin)), min(height, int(bottom + y_margin) + 1))
        columns = slice(max(0, int(left - x_margin)), min(width, int(right + x_margin) + 1))
        part = image[rows, columns]
        few = cv2.resize(part, (8, 8), interpolation=cv2.INTER_AREA)
        image[rows, columns] = cv2.resize(few, part.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return image


def main(source: str = "sample:sports2d_demo", out: str = "blurred.mp4", most: int = 60) -> None:
    with stillframe.open_source(source) as opened:
        info = opened.info
    sound = source if info.has_audio else None
    with stillframe.VideoSink(Path(out), info=info, audio_from=sound) as video:
        for frame, faces in stillframe.stream(source, with_frame=True, confidence=0.35):
            assert isinstance(faces, stillframe.Detections)
            video.write(frame, faces, blurred(frame.image, faces))
            if frame.index + 1 >= most:
                break
    print(f"wrote {out}")


if __name__ == "__main__":
    main(*sys.argv[1:])
