"""Which frames are skipped, what their results are, and boxes that follow the picture."""

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from stillframe.errors import UsageError
from stillframe.models import zoo
from stillframe.models.model import Model
from stillframe.models.results import Detections, Mask
from stillframe.pipeline.cli import status
from stillframe.pipeline.cli.filter_request import FilterRequest
from stillframe.pipeline.filter.box_hold import BoxHold, box_iou
from stillframe.pipeline.inference.backend_slot import BackendSlot
from stillframe.pipeline.inference.box_flow import BoxFollower, Lens, follow, moved
from stillframe.pipeline.inference.frame_policy import FramePolicy, SceneCutDetector
from stillframe.pipeline.inference.frame_skipping import FrameSkipping
from stillframe.pipeline.inference.profile import TuningProfile
from stillframe.pipeline.inference.runner import Runner
from stillframe.pipeline.inference.settings import Settings
from stillframe.pipeline.inference.stages import InferenceStages
from stillframe.pipeline.inference.types import StepResult
from stillframe.pipeline.media.frame import Frame
from stillframe.reuse.gate.gate_settings import GateSettings
from stillframe.reuse.plan.tolerance import Tolerance
from tests import networks
from tests.hostile import media

RATE = 10
Image = NDArray[np.uint8]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """One box in the middle, whose score is the picture's brightness."""
    path = networks.brightness(tmp_path_factory.mktemp("models") / "brightness.onnx")
    return zoo.load(str(path), confidence=0.0)


def texture(height: int, width: int, seed: int = 0) -> Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (7, 7), 2), np.uint8)


def scene(shift: int = 0, seed: int = 0) -> Image:
    """64 x 96 RGB, textured, the whole of it moved to the right."""
    return np.repeat(np.roll(texture(64, 96, seed), shift, 1)[..., None], 3, axis=2)


def frame(index: int, image: Image, time_s: float | None = None, **flags: bool) -> Frame:
    time_s = index / RATE if time_s is None else time_s
    return Frame(image, index, time_s, index, Fraction(1, RATE), **flags)


def kinds(model: Model, settings: Settings, *frames: Frame) -> list[str]:
    with Runner(model, settings) as runner:
        return [runner.step(each).kind[0] for each in frames]


def profile(skipping: FrameSkipping) -> TuningProfile:
    return TuningProfile(
        stillframe="0",
        model="m",
        fingerprint="0" * 64,
        share=0.1,
        target=0.9,
        frame_skipping=skipping,
    )


# --- which frames pass ---------------------------------------------------------------------------


def test_of_moving_frames_each_nth_is_computed(model: Model) -> None:
    frames = [frame(n, scene(n)) for n in range(8)]
    for reuse in ("off", "frame", "layer"):
        settings = Settings(reuse=reuse, every=3)  # type: ignore[arg-type]
        assert "".join(kinds(model, settings, *frames)) == "csscsscs"


def test_what_moves_after_stillness_is_computed_at_once(model: Model) -> None:
    shifts = (0, 0, 0, 0, 0, 3, 6, 9, 12, 12, 12, 12, 12)
    frames = [frame(n, scene(shift)) for n, shift in enumerate(shifts)]
    assert "".join(kinds(model, Settings(every=3), *frames)) == "cssuucssc" + "ssuu"


def test_a_cut_is_not_skipped(model: Model) -> None:
    dark = scene() // 4
    pictures = [scene(), scene(1), dark, np.roll(dark, 1, 1), np.roll(dark, 2, 1)]
    frames = [frame(n, image) for n, image in enumerate(pictures)]
    assert "".join(kinds(model, Settings(reuse="off", every=5), *frames)) == "cscss"


def test_another_background_is_a_cut_and_a_moving_camera_is_not() -> None:
    cuts, wide = SceneCutDetector(), np.repeat(texture(180, 900)[..., None], 3, axis=2)
    pan = [wide[:, 8 * n : 8 * n + 320] for n in range(6)]
    assert [cuts.is_cut(image) for image in pan][2:] == [False] * 4
    other = np.clip(wide[:, 500:820].astype(int) + 15, 0, 255).astype(np.uint8)
    still = [cuts.is_cut(pan[-1]), cuts.is_cut(other), cuts.is_cut(other)]
    assert still == [False, True, False]


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (6, 6), (200, 7), (1, 5000)])
def test_pictures_of_any_size_may_be_left_out(model: Model, size: tuple[int, int]) -> None:
    image = np.repeat(texture(*size)[..., None], 3, axis=2)
    frames = [frame(n, image) for n in range(3)]
    settings = Settings(reuse="off", every=2, between="follow")
    assert "".join(kinds(model, settings, *frames)) == "csc"


def test_what_is_too_old_is_computed_whatever_is_skipped(model: Model) -> None:
    frames = [frame(n, scene(n)) for n in range(8)]
    assert "".join(kinds(model, Settings(every=100, max_age_s=0.25), *frames)) == "csscsscs"


def test_frames_pass_no_longer_than_they_may(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A camera of fewer frames a second than the clip that the profile was tuned on."""
    tuned = profile(FrameSkipping(4, "keep", 0.1))
    monkeypatch.setattr(Tolerance, "check", lambda *_: None)
    settings = Settings(reuse="layer", profile=tuned)
    moving = [scene(2 * n) for n in range(9)]
    thirty = [frame(n, image, n / 30) for n, image in enumerate(moving)]
    assert "".join(kinds(model, settings, *thirty)) == "cssscsssc"
    ten = [frame(n, image, n / 10) for n, image in enumerate(moving)]
    assert "".join(kinds(model, settings, *ten)) == "cscscscsc"
    five = [frame(n, image, n / 5) for n, image in enumerate(moving)]
    assert "".join(kinds(model, settings, *five)) == "c" * 9


def test_the_user_s_word_counts_more_than_the_profile_s() -> None:
    settings = Settings(reuse="layer", profile=profile(FrameSkipping(4, "follow", 0.1)))
    assert settings.frame_skipping == FrameSkipping(4, "follow", 0.1)
    assert replace(settings, every=2).frame_skipping == FrameSkipping(2, "follow")
    assert replace(settings, between="keep").frame_skipping == FrameSkipping(4, "keep", 0.1)
    assert Settings().frame_skipping == FrameSkipping()
    assert not Settings(between="follow").frame_skipping.follows


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"every": 0}, "every: expected 1 or more, got 0"),
        ({"every": 2, "between": "guess"}, "between: expected one of keep, follow, got 'guess'"),
    ],
)
def test_frame_skipping_that_makes_no_sense_is_refused(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Settings(**fields)


def test_a_profile_keeps_its_frame_skipping(tmp_path: Path) -> None:
    before = profile(FrameSkipping(4, "follow", 0.1))
    before.write(tmp_path / "p.json")
    assert TuningProfile.read(tmp_path / "p.json") == before
    keys = json.loads((tmp_path / "p.json").read_text())
    assert keys["cadence"] == {"every": 4, "between": "follow", "within_s": 0.1}
    assert keys["wanted"] == 0.9
    assert "frame_skipping" not in keys  # files keep the keys of the first version
    old = before.model_dump_json(exclude={"frame_skipping"})
    (tmp_path / "old.json").write_text(old)
    assert TuningProfile.read(tmp_path / "old.json").frame_skipping == FrameSkipping()
    (tmp_path / "bad.json").write_text(before.model_dump_json().replace("follow", "guess"))
    with pytest.raises(UsageError, match=r"bad\.json: expected a profile.*between"):
        TuningProfile.read(tmp_path / "bad.json")
    (tmp_path / "no.json").write_text(before.model_dump_json().replace('"every":4', '"every":0'))
    with pytest.raises(
        UsageError, match=r"no\.json: expected a profile.*every: expected 1 or more"
    ):
        TuningProfile.read(tmp_path / "no.json")


# --- following -----------------------------------------------------------------------------------


def detections(*boxes: tuple[float, float, float, float], **more: Any) -> Detections:
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4), np.full(count, 0.9, np.float32),
        np.zeros(count, np.int64), ("face",), **more,
    )  # fmt: skip


def test_boxes_follow_the_picture() -> None:
    before = texture(200, 300)
    now = np.roll(before, (4, -6), (0, 1))
    centre, side = np.array([(130.0, 90.0)], np.float32), np.full((1, 2), 60, np.float32)
    shifts, zooms = follow(centre, side, before, now)
    assert np.abs(shifts - (-6, 4)).max() < 0.3
    assert zooms == pytest.approx([1], abs=0.02)
    larger = cv2.warpAffine(before, np.array([[1.05, 0, -6.5], [0, 1.05, -4.5]]), (300, 200))
    shifts, zooms = follow(centre, side, before, np.asarray(larger, np.uint8))
    assert np.abs(shifts).max() < 0.3
    assert zooms == pytest.approx([1.05], abs=0.01)


def test_only_boxes_in_which_something_moves_are_followed() -> None:
    before = texture(200, 300)
    now = before.copy()
    now[20:100, 20:100] = np.roll(before, 3, 1)[20:100, 20:100]
    before_boxes = detections((30, 30, 90, 90), (200, 100, 280, 180))
    there, went = moved(before_boxes, before, now, (200, 300))
    assert np.abs(there.xyxy[0] - (33, 30, 93, 90)).max() < 0.3
    assert (there.xyxy[1] == before_boxes.xyxy[1]).all()
    assert went.tolist() == [True, False]
    assert moved(before_boxes, before, before, (200, 300))[0] is before_boxes


def test_what_cannot_be_followed_stays() -> None:
    before_boxes = detections((30, 30, 90, 90))
    there, went = moved(before_boxes, texture(200, 300), texture(200, 300, seed=5), (200, 300))
    assert (there.xyxy == before_boxes.xyxy).all()
    assert not went.any()


def test_landmarks_and_masks_go_along() -> None:
    before = texture(200, 300)
    now = np.roll(before, (4, -6), (0, 1))
    mask = np.zeros((1, 400, 600), bool)
    mask[0, 150:200, 220:300] = True
    points = np.array([[(220, 150), (300, 200)]], np.float32)
    before_boxes = detections((200, 120, 320, 240), landmarks=points, masks=mask)
    there, _ = moved(before_boxes, before, now, (400, 600, 3))  # a frame of twice the size
    assert np.abs(there.xyxy - before_boxes.xyxy - np.array((-12, 8, -12, 8))).max() < 0.6
    assert there.landmarks is not None
    assert np.abs(there.landmarks - points - np.array((-12, 8))).max() < 0.6
    assert there.masks is not None
    expected = np.roll(mask, (8, -12), (1, 2))
    assert np.count_nonzero(there.masks != expected) < 0.05 * np.count_nonzero(expected)
    assert there.masks.dtype == bool


def test_faint_boxes_follow_and_leave_the_others_as_they_are() -> None:
    before = texture(200, 300)
    now = np.asarray(np.roll(before, 5, axis=1), np.uint8)
    far = (200.0, 140.0, 240.0, 180.0)
    alone = detections((60, 60, 100, 100))
    with_faint = replace(alone, faint=detections((70, 70, 110, 110), far))
    there, bare = (moved(each, before, now, (200, 300))[0] for each in (with_faint, alone))
    assert there.xyxy.tobytes() == bare.xyxy.tobytes()
    assert there.faint is not None
    assert there.faint.xyxy[0] == pytest.approx((75, 70, 115, 110), abs=0.3)
    assert there.faint.xyxy[1].tolist() == list(far)  # out of sight of the flow
    only = replace(detections(), faint=detections(far))
    follower = BoxFollower()
    follower.begin(only, before)
    result = follower.carry(now, (200, 300))
    assert isinstance(result, Detections)
    assert result.faint is not None
    assert (len(result), result.faint.xyxy[0, 0]) == (0, pytest.approx(205, abs=0.3))
    for _ in range(15):
        before, now = now, np.asarray(np.roll(now, 8, axis=1), np.uint8)
        result = follower.carry(now, (200, 300))
    assert isinstance(result, Detections)
    assert result.faint is not None
    assert result.faint.xyxy[0, 2] == 300  # clipped to the picture


def test_a_box_that_leaves_the_picture_is_gone() -> None:
    follower, before = BoxFollower(), texture(120, 200)
    follower.begin(detections((2, 40, 30, 80), (100, 40, 140, 80)), before)
    counts, lefts = [], []
    for step in range(1, 12):
        result = follower.carry(np.roll(before, -4 * step, 1), (120, 200))
        assert isinstance(result, Detections)
        counts.append(len(result))
        lefts.append(float(result.xyxy[-1, 0]))
    assert counts[0] == 2
    assert counts[-1] == 1
    assert lefts[-1] == pytest.approx(100 - 44, abs=1)


def test_a_box_that_comes_back_is_whole_again() -> None:
    """Half of it leaves the picture and returns; a still one beyond the border is left alone."""
    follower = BoxFollower()
    wide = np.concatenate([texture(120, 200, 3), texture(120, 300)], axis=1)
    at = 200  # the picture's left border in the wide scene

    def picture(left: int) -> Image:
        return np.ascontiguousarray(wide[:, left : left + 240])

    follower.begin(detections((5, 40, 45, 80)), picture(at))
    lefts = [at + step for step in (5, 10, 15, 20, 25, 20, 15, 10, 5, 0)]
    results = [follower.carry(picture(left), (120, 240)) for left in lefts]
    boxes = [each.xyxy[0] for each in results]  # type: ignore[union-attr]
    assert boxes[4] == pytest.approx([0, 40, 20, 80], abs=1.5)
    assert boxes[-1] == pytest.approx([5, 40, 45, 80], abs=2)


def test_boxes_that_did_not_move_stay_as_they_were() -> None:
    before = texture(200, 300)
    now = before.copy()
    now[20:100, 20:100] = np.roll(before, 3, 1)[20:100, 20:100]
    odd = [(150.0, 150.0, 150.0, 150.0), (299.5, 120.0, 300.0, 160.0), (280.0, 150.0, 340.0, 230.0)]
    boxes = detections((30, 30, 90, 90), *odd)
    follower = BoxFollower()
    follower.begin(boxes, before)
    followed = follower.carry(now, (200, 300))
    assert isinstance(followed, Detections)
    assert (followed.xyxy[1:] == boxes.xyxy[1:]).all()
    assert followed.xyxy[0, 0] == pytest.approx(33, abs=0.3)


def test_other_results_are_kept() -> None:
    follower, before = BoxFollower(), texture(60, 80)
    mask = Mask(np.zeros((60, 80), np.uint8), ("background", "person"))
    follower.begin(mask, before)
    assert follower.carry(np.roll(before, 2, 1), (60, 80)) is mask


def test_small_grey_pictures_come_from_a_pool() -> None:
    lens = Lens()
    image = np.repeat(texture(720, 1280)[..., None], 3, axis=2)
    grey = lens.grey(image)
    assert grey.shape == (360, 640)
    exact = cv2.resize(image[..., 0], (640, 360), interpolation=cv2.INTER_AREA)
    assert np.abs(grey.astype(int) - exact).max() <= 1
    size = lens.size_bytes
    del grey
    for _ in range(5):
        lens.grey(image)
    assert lens.size_bytes == size


def test_pictures_of_other_sizes_take_no_memory_for_good(model: Model) -> None:
    settings = Settings(reuse="off", every=2, between="follow")
    policy = FramePolicy(model, settings, BackendSlot.of(settings))
    sizes = []
    for side in range(64, 84):
        policy.decide(frame(0, np.zeros((side, side, 3), np.uint8)))
        assert policy._lens is not None
        sizes.append(policy._lens.size_bytes)
    assert max(sizes) <= 83 * 83


def play(model: Model, settings: Settings, images: list[Image], staged: bool) -> list[StepResult]:
    frames = [frame(n, image) for n, image in enumerate(images)]
    if not staged:
        with Runner(model, settings) as runner:
            return [runner.step(each) for each in frames]
    analysis = InferenceStages(model, settings, keeps_pixels=False)
    parts = [stage.work for stage in analysis.stages()]
    steps: list[Any] = list(frames)
    for part in parts:  # each stage does all frames before the next one begins
        steps = [part(each) for each in steps]
    for stage in analysis.stages():
        if stage.close is not None:
            stage.close()
    return steps


@pytest.mark.parametrize("staged", [False, True])
def test_skipped_frames_show_where_boxes_went(model: Model, staged: bool) -> None:
    """In between the network they move; where nothing moved since it looked, its own word stands;
    what it says next counts again."""
    images = [scene(2 * n) for n in (0, 1, 2, 3, 3, 3, 3)]
    steps = play(model, Settings(every=3, between="follow"), images, staged)
    assert [s.kind[0] for s in steps] == list("csscssu")
    boxes = [s.result.xyxy[0] for s in steps]  # type: ignore[union-attr]
    for number, moves in enumerate((0, 2, 4)):
        inner = boxes[0] + np.array([moves, 0, moves, 0])
        assert box_iou(boxes[number][None], np.clip(inner, 0, 96)[None])[0, 0] > 0.9
    assert (boxes[3] == boxes[0]).all()
    assert (boxes[6] == boxes[3]).all()
    assert steps[1].result.evidence.provenance == "reused"
    results = play(model, Settings(every=3), images, staged)
    assert all((s.result.xyxy[0] == boxes[0]).all() for s in results)  # type: ignore[union-attr]


@pytest.mark.parametrize("staged", [False, True])
def test_where_nothing_changed_the_network_s_own_word_stands(model: Model, staged: bool) -> None:
    """The picture moves on while frames pass, and back to what the network saw."""
    images = [scene(shift) for shift in (0, 3, 6, 0, 3)]
    steps = play(model, Settings(every=3, between="follow"), images, staged)
    assert [s.kind[0] for s in steps] == list("cssuc")
    boxes = [s.result.xyxy[0] for s in steps]  # type: ignore[union-attr]
    assert boxes[2][0] > boxes[0][0] + 3
    assert (boxes[3] == boxes[0]).all()


def test_a_corrupt_frame_is_not_followed_on(model: Model) -> None:
    settings = Settings(every=4, between="follow")
    with Runner(model, settings) as runner:
        runner.step(frame(0, scene(0)))
        first = runner.step(frame(1, scene(2)))
        damaged = runner.step(frame(2, scene(0, seed=9), corrupt=True))
        last = runner.step(frame(3, scene(4)))
    assert isinstance(first.result, Detections)
    assert isinstance(damaged.result, Detections)
    assert isinstance(last.result, Detections)
    assert (damaged.result.xyxy == first.result.xyxy).all()
    assert last.result.xyxy[0, 0] > first.result.xyxy[0, 0]


def test_what_is_hidden_is_hidden_where_it_was_and_where_it_went() -> None:
    """What passes before a still face takes its box along; the face must not show."""
    hold = BoxHold(0.5)
    seen = np.array([(50, 50, 90, 90)], np.float32)
    hold.update(seen, 0.0, fresh=True)
    went, stayed = hold.update(seen + 60, 0.1, fresh=False)
    assert went == pytest.approx([102, 102, 158, 158])
    assert stayed == pytest.approx([42, 42, 98, 98])
    assert len(hold.update(seen, 0.2, fresh=False)) == 1  # one place, not two
    assert len(hold.update(np.empty((0, 4), np.float32), 0.3, fresh=False)) == 1


def test_a_lost_neighbour_s_place_is_not_given_to_another() -> None:
    hold = BoxHold(1.0)
    one, other = np.array([(100, 100, 200, 200), (140, 100, 240, 200)], np.float32)[:, None]
    hold.update(np.concatenate([one, other]), 0.0, fresh=True)
    hold.update(one, 0.04, fresh=True)
    assert hold.update(one, 0.08, fresh=False)[:, 2].max() >= 240
    assert hold.update(one, 0.12, fresh=True)[:, 2].max() >= 240


def test_a_box_that_comes_when_times_begin_anew_is_hidden() -> None:
    hold = BoxHold(1.0)
    box = np.array([(100, 100, 200, 200)], np.float32)
    hold.update(box, 5.0, fresh=True)
    assert hold.update(box, 1.0, fresh=False) == pytest.approx(box)


def test_a_gate_of_one_s_own_decides_which_frames_change(model: Model) -> None:
    frames = [frame(n, scene(n)) for n in range(5)]
    settings = Settings(every=2, gating=GateSettings(pixel=8))
    assert "".join(kinds(model, settings, *frames)) == "csucs"  # two pixels are within its limits


def test_options_of_commands_reach_the_run(tmp_path: Path) -> None:
    network = networks.brightness(tmp_path / "brightness.onnx")
    clip = media.clip(tmp_path / "a.mp4", 8)
    summary = tmp_path / "s.json"
    options = ["--model", str(network), "--confidence", "0", "--every", "3", "--between", "follow"]
    assert status(["run", str(clip), *options, "-q", "--summary-json", str(summary)]) == 0
    figures = json.loads(summary.read_text())
    assert figures["cadence"] == {"every": 3, "between": "follow", "within_s": None}
    settings = FilterRequest(every=3, between="follow").settings()
    assert settings.frame_skipping == FrameSkipping(3, "follow")
