"""What the loop asks whoever steers it, and what it reports to them."""

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import pytest

from stillframe.models import zoo
from stillframe.models.model import Model
from stillframe.models.results import Detections, Result
from stillframe.pipeline.inference.frame_skipping import FrameSkipping
from stillframe.pipeline.inference.runner import Runner
from stillframe.pipeline.inference.settings import Settings
from stillframe.pipeline.inference.steering import FrameSetting
from stillframe.pipeline.media.frame import Frame
from tests import networks


@dataclass
class Recorder:
    """Steers as its fields say, and keeps what it is told."""

    every: int = 1
    gated: bool = False
    follows: bool = True
    following: bool = True
    spreads: list[float] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    compared: list[tuple[Result, Result, int]] = field(default_factory=list)

    def adapt(self, model: Model) -> None:
        self.sizes.append(model.size)

    def frame_skipping(self) -> FrameSkipping:
        return FrameSkipping(self.every, "follow" if self.follows else "keep")

    def note_spread(self, share: float) -> None:
        self.spreads.append(share)

    def wants_following(self) -> bool:
        return self.following

    def gates(self) -> bool:
        return self.gated

    def setting(self, distance: int) -> FrameSetting:
        return FrameSetting(None, self.every, distance)

    def wants_comparison(self, distance: int) -> bool:
        return True

    def compare(self, carried: Result, computed: Result, distance: int, time_s: float) -> None:
        self.compared.append((carried, computed, distance))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return zoo.load(str(networks.brightness(tmp_path_factory.mktemp("model") / "net.onnx")))


def runs(model: Model, steering: Recorder) -> Runner:
    return Runner(model, Settings("auto", threads=1), steering=steering)


def picture(index: int, shift: int = 0) -> Frame:
    """A texture that lies `shift` pixels further to the right."""
    noise = np.random.default_rng(3).integers(120, 250, (8, 12, 3)).astype(np.uint8)
    texture = np.kron(noise, np.ones((8, 8, 1), np.uint8))
    image = np.ascontiguousarray(np.roll(texture, shift, axis=1))
    return Frame(image, index, index / 30, index, Fraction(1, 30))


def grey(index: int, level: int) -> Frame:
    return Frame(np.full((64, 96, 3), level, np.uint8), index, index / 30, index, Fraction(1, 30))


def test_it_is_asked_anew_before_each_frame(model: Model) -> None:
    steering = Recorder()
    with runs(model, steering) as runner:
        kinds = [runner.step(picture(index)).kind for index in range(3)]
        steering.every = 3
        kinds += [runner.step(picture(index)).kind for index in range(3, 9)]
    assert kinds == ["computed"] * 3 + ["skipped", "skipped", "computed"] * 2
    assert steering.sizes == [(64, 96)]


def test_results_name_the_setting_and_the_distance(model: Model) -> None:
    with runs(model, Recorder(every=3)) as runner:
        settings = [runner.step(picture(index)).setting for index in range(7)]
    assert [each.distance for each in settings if each is not None] == [0, 1, 2, 0, 1, 2, 0]


def test_a_computed_frame_is_compared_with_what_skipping_it_would_give(model: Model) -> None:
    steering = Recorder(every=3)
    with runs(model, steering) as runner:
        for index in range(7):
            runner.step(picture(index, shift=index))
    assert [distance for _, _, distance in steering.compared] == [3, 3]
    for carried, computed, _ in steering.compared:
        assert isinstance(carried, Detections)
        assert isinstance(computed, Detections)
        moved = carried.xyxy - computed.xyxy
        assert moved[0, 0] == pytest.approx(3, abs=1), "its box was followed to the frame itself"


def test_without_the_gate_each_frame_is_new_and_after_a_pause_it_starts_anew(model: Model) -> None:
    """Else it would compare with a picture from before the pause, and carry the wrong result."""
    steering = Recorder(gated=True, follows=False)
    with runs(model, steering) as runner:
        scores = [_score(runner, grey(0, 170))]
        assert runner.step(grey(1, 170)).kind == "unchanged"
        steering.gated = False
        scores += [_score(runner, grey(2, 230)), _score(runner, grey(3, 230))]
        steering.gated = True
        scores += [_score(runner, grey(4, 170))]
    assert scores == pytest.approx([170 / 255, 230 / 255, 230 / 255, 170 / 255], abs=0.01)


def _score(runner: Runner, frame: Frame) -> float:
    step = runner.step(frame)
    assert step.kind == "computed"
    assert isinstance(step.result, Detections)
    return float(step.result.confidence[0])


def test_it_learns_in_how_much_of_the_picture_frames_differ(model: Model) -> None:
    steering = Recorder()
    with runs(model, steering) as runner:
        runner.step(grey(0, 100))
        assert steering.spreads == [], "there is none before"
        runner.step(grey(1, 100))
        runner.step(grey(2, 250))
        corner = np.full((64, 96, 3), 250, np.uint8)
        corner[:16, :24] = 20
        runner.step(Frame(corner, 3, 0.1, 3, Fraction(1, 30)))
    assert steering.spreads[:2] == [0.0, 1.0]
    assert 0 < steering.spreads[2] < 0.25


def test_without_following_nothing_is_compared_and_skipped_frames_keep_their_boxes(
    model: Model,
) -> None:
    steering = Recorder(following=False)
    with runs(model, steering) as runner:
        first, second = (runner.step(picture(index, 4 * index)) for index in range(2))
        assert steering.compared == []
        assert first.result.xyxy.size
        steering.every = 2
        skipped = runner.step(picture(2, 8))
        assert skipped.kind == "skipped"
        np.testing.assert_array_equal(skipped.result.xyxy, second.result.xyxy)
        steering.following = True
        runner.step(picture(3, 12))
        followed = runner.step(picture(4, 16))
        assert followed.kind == "skipped"
        assert (followed.result.xyxy != second.result.xyxy).any()


def test_results_without_anything_in_them_are_not_compared(model: Model) -> None:
    steering = Recorder()
    with runs(model, steering) as runner:
        steps = [runner.step(grey(index, 5)) for index in range(3)]
    assert [len(each.result) for each in steps] == [0, 0, 0]
    assert steering.compared == []
