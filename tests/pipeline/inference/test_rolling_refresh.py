"""Ages of what results rest on: stripes in time, and a runner that never shows anything older."""

import dataclasses
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from stillframe.models import zoo
from stillframe.models.model import Model
from stillframe.models.results import Tensors
from stillframe.pipeline.inference.backends import ReuseBackend
from stillframe.pipeline.inference.rolling_refresh import RollingRefresh
from stillframe.pipeline.inference.runner import Runner
from stillframe.pipeline.inference.settings import Settings
from stillframe.pipeline.media.frame import Frame
from stillframe.reuse.gate.change_gate import ChangeGate
from stillframe.reuse.gate.gate_settings import GateSettings
from tests.reuse.test_session import net

RATE = 10


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    where = tmp_path_factory.mktemp("model") / "net.onnx"
    where.write_bytes(net((1, 3, 96, 128), gate=True))
    return zoo.load(str(where), task="tensors")


def picture(brightness: float, seed: int = 1) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 12, (96, 128, 3))
    return np.clip(brightness + noise, 0, 255).astype(np.uint8)


def frame(index: int, image: np.ndarray, rate: int = RATE) -> Frame:
    return Frame(image, index, index / rate, index, Fraction(1, rate))


@pytest.mark.parametrize("rate", [1, 10, 100])
@pytest.mark.parametrize("height", [7, 96, 544])
def test_no_row_rests_on_anything_older_than_the_greatest_age(height: int, rate: int) -> None:
    refresh = RollingRefresh(height, 20.0)
    refresh.start(0.0)
    seen: list[tuple[int, int]] = []
    oldest = np.zeros(height)
    for index in range(1, 100 * rate):
        first, end = refresh.rows(index / rate)
        if end > first:
            seen.append((first, end))
            oldest[first:end] = index / rate
        assert index / rate - refresh.since_s <= 20.0 + 1e-9
        assert refresh.since_s <= oldest.min()
    assert all(b[0] == a[1] % height for a, b in pairwise(seen))
    least = 16 if height >= 256 else 8
    assert all(end - first >= least for first, end in seen if end < height)
    sizes = [end - first for first, end in seen]
    assert max(sizes) <= 2 * max(least + 1, height * 2.2 / 20 / rate + 1)


@pytest.mark.parametrize("age", [0.0, float("inf")])
def test_nothing_is_renewed_for_no_age_or_every_age(age: float) -> None:
    refresh = RollingRefresh(96, age)
    refresh.start(0.0)
    assert {refresh.rows(float(second)) for second in range(100)} == {(0, 0)}


def test_the_gate_marks_the_rows_that_are_to_be_renewed() -> None:
    gate = ChangeGate(96, 128)
    image = picture(100)
    gate.step(image)
    change = gate.step(image, renew=(8, 16))
    assert (change.kind, change.renewed) == ("partial", (8, 16))
    assert change.mask[8:16].all()
    assert not change.mask[16:].any()
    assert gate.step(image).kind == "unchanged"


def dense(model: Model, image: np.ndarray) -> Tensors:
    with Runner(model, Settings(reuse="off", threads=1)) as runner:
        result = runner.step(frame(0, image)).result
        assert isinstance(result, Tensors)
        return result


def apart(ours: object, expected: Tensors) -> float:
    assert isinstance(ours, Tensors)
    a, b = ours.arrays["y"].astype(np.float64), expected.arrays["y"].astype(np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def settings(**more: object) -> Settings:
    return dataclasses.replace(Settings(reuse="layer", threads=1), **more)  # type: ignore[arg-type]


def test_a_result_at_a_huge_tolerance_is_right_once_it_is_renewed(model: Model) -> None:
    """The light changes, the tolerance cuts everything off, and only the stripes bring it in."""
    before, after = picture(90), picture(90)
    after[:20] = picture(150)[:20]  # few enough that no host finds a dense step cheaper
    expected = dense(model, after)
    gate = GateSettings(flush=1.0)
    with Runner(model, settings(tolerance=9.0, max_age_s=4.0, gating=gate)) as runner:
        runner.step(frame(0, before))
        errors, ages = [], []
        for index in range(1, 80):
            step = runner.step(frame(index, after))
            errors.append(apart(step.result, expected))
            ages.append(step.result.evidence.age_s)
        assert step.kind in ("computed", "unchanged")
    assert errors[2] > 0.05
    assert max(errors[45:]) < 1e-5
    assert max(ages) <= 4.0 + 1e-9
    assert max(ages) > 2.0


def test_ages_are_kept_while_nothing_changes_at_all(model: Model) -> None:
    image = picture(100)
    with Runner(model, settings(max_age_s=3.0)) as runner:
        steps = [runner.step(frame(index, image)) for index in range(100)]
    assert max(step.result.evidence.age_s for step in steps) <= 3.0 + 1e-9
    assert not any(step.active > 0.2 for step in steps[1:])
    assert {step.kind for step in steps} <= {"computed", "unchanged"}


def test_the_greatest_age_follows_the_mode() -> None:
    ages = {mode: Settings(reuse=mode).age_limit_s for mode in ("off", "frame", "layer", "exact")}
    assert ages == {"off": 5.0, "frame": 5.0, "layer": 60.0, "exact": float("inf")}
    assert Settings(reuse="layer", max_age_s=1.5).age_limit_s == 1.5


def test_by_default_stripes_cost_little(model: Model) -> None:
    """Of computing everything; a frame with reuse takes a tenth of that, and a twentieth of it is
    a 200th."""
    image = picture(100)
    with Runner(model, settings()) as runner:
        works = []
        for index in range(600):
            step = runner.step(frame(index, image, rate=30))
            backend = runner.backend
            assert isinstance(backend, ReuseBackend)
            stats = backend.session.last_stats
            works.append(stats.work if step.kind == "computed" and stats is not None else 0.0)
    assert 0 < np.mean(works[1:]) < 1 / 200
