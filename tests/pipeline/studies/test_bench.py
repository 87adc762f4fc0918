"""The benchmark on networks and clips of a few pixels: what it checks, counts, keeps and says.

No test looks at how long anything took.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from stillframe.errors import ModelError, QualityError, SourceError, UsageError
from stillframe.models.card import ModelCard
from stillframe.pipeline.cli import status
from stillframe.pipeline.cli.bench import MOVING, PAIRS
from stillframe.pipeline.cli.options import gate_settings
from stillframe.pipeline.inference.backends import Feed
from stillframe.pipeline.inference.frame_skipping import FrameSkipping
from stillframe.pipeline.inference.profile import TuningProfile
from stillframe.pipeline.quality.agreement import MEASURES
from stillframe.pipeline.studies.bench import peak_memory, race
from stillframe.pipeline.studies.bench import row as bench_row
from stillframe.pipeline.studies.bench.case import Case, Conditions, Crop, decoded
from stillframe.pipeline.studies.bench.contenders import (
    CONTENDERS,
    Contender,
    ContenderRow,
    ContenderSetting,
    Onnxruntime,
    Outputs,
    Reuse,
    UnavailableError,
    contender,
)
from stillframe.pipeline.studies.bench.race import prepare
from stillframe.pipeline.studies.bench.row import measure
from stillframe.reuse.frontend.fingerprint import fingerprint
from stillframe.reuse.gate.change_map import ChangeMap
from stillframe.reuse.gate.gate_settings import GateSettings
from tests import networks
from tests.answers import painting
from tests.hostile import media

PROMISED = {
    "model", "clip", "threads", "frames", "ort_ms", "openvino_ms", "dense_ms", "exact_ms",
    "reuse_ms", "tolerance", "macs_share", "agreement", "skip2_agreement", "skip4_agreement",
    "rss_mb", "arena_mb", "lower_bound_mb", "naive_cache_mb", "unchanged_ms", "machine", "date",
    "versions", "skipped", "agreement_strict", "agreement_place", "repeatability",
    "repeatability_strict", "noise_level", "mean_iou", "missed_per_minute", "invented_per_minute",
    "skip2_strict", "skip4_strict", "truth_dense_f1", "truth_reuse_f1", "doubts",
    "fastest_dense", "reuse_times_fastest", "reuse_times_ort", "whole_reuse_times_fastest",
    *(f"{way}{name}_{end}" for way in ("", "whole_") for end in ("ms", "iqr", "mean_ms")
      for name in ("ort", "openvino", "dense", "exact", "reuse")),
}  # fmt: skip
HEIGHT, WIDTH = 64, 96
FRAMES = 9
CONDITIONS = Conditions(warm_up=1)


def moving(index: int) -> NDArray[np.uint8]:
    """A still scene before which a small bright square moves two pixels a frame."""
    image = media.picture(3).copy()
    image[30:38, 4 + 2 * index : 12 + 2 * index] = 250
    return image


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def network(folder: Path) -> Path:
    """Two convolutions that paint a picture."""
    rng = np.random.default_rng(1)

    def weights(*shape: int) -> NDArray[np.float32]:
        return rng.normal(0, 0.4, shape).astype(np.float32)

    conv: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    return painting(
        folder / "painter.onnx",
        [
            ("Conv", conv, [weights(8, 3, 3, 3), weights(8)]),
            ("Relu", {}, []),
            ("Conv", conv, [weights(3, 8, 3, 3), weights(3)]),
            ("Sigmoid", {}, []),
        ],
        picture=(1, 3, HEIGHT, WIDTH),
    )


@pytest.fixture(scope="module")
def clip(folder: Path) -> Path:
    pictures = [moving(index) for index in range(FRAMES)]
    media.encode(folder / "moving.mkv", pictures, codec="ffv1", pix_fmt="bgr0")
    return folder / "moving.mkv"


@pytest.fixture(scope="module")
def still(folder: Path) -> Path:
    media.encode(folder / "still.mkv", [moving(0)] * 5, codec="ffv1", pix_fmt="bgr0")
    return folder / "still.mkv"


@pytest.fixture(scope="module")
def case(network: Path, clip: Path) -> Case:
    return Case(str(network), str(clip))


@pytest.fixture(scope="module")
def row(case: Case) -> dict[str, Any]:
    return measure(case, CONDITIONS, memory=False)


def test_reuse_runs_with_the_profile_that_was_given(case: Case, row: dict[str, Any]) -> None:
    """One that lets everything stand still but what the gate sees as new does less."""
    values: dict[str, Any] = {"stillframe": "0", "model": "m", "wanted": 0.5}
    loose = TuningProfile(
        fingerprint=fingerprint(Path(case.model)), share=0.9, gate=GateSettings(margin=2), **values
    )
    tuned = measure(case, replace(CONDITIONS, profile=loose), memory=False)
    assert tuned["tolerance"] == "profile"
    assert tuned["macs_share"] < row["macs_share"]
    assert tuned["exact_macs_share"] == row["exact_macs_share"]
    with pytest.raises(UsageError):
        measure(case, replace(CONDITIONS, profile=loose.model_copy(update={"fingerprint": "no"})))


def test_reuse_leaves_out_frames_and_the_others_do_not(case: Case, row: dict[str, Any]) -> None:
    third = measure(case, replace(CONDITIONS, frame_skipping=FrameSkipping(3)), memory=False)
    assert (row["every"], third["every"], third["between"]) == (1, 3, "keep")
    assert 0 < third["macs_share"] < 0.6 * row["macs_share"]
    assert third["exact_macs_share"] == row["exact_macs_share"]
    assert third["agreement"] <= row["agreement"]
    # the median frame is one that was left out, and what its outputs are is an earlier frame's
    assert third["reuse_gain"] is third["whole_reuse_gain"] is third["closeness"] is None
    assert third["reuse_gain_over_clip"] > 0
    assert third["dense_gain"] is not None


class Altered:
    """A contender whose outputs are changed from some run on."""

    def __init__(
        self, inner: Contender, alter: Callable[[NDArray[Any]], NDArray[Any]], first: int = 0
    ) -> None:
        self._inner, self._alter, self._left = inner, alter, first
        self.incremental, self.cache_bytes = inner.incremental, inner.cache_bytes
        self.work = 1.0

    def run(self, feed: Feed, change: ChangeMap | None) -> Outputs:
        outputs = self._inner.run(feed, change)
        self.work, self._left = self._inner.work, self._left - 1
        return outputs if self._left >= 0 else [self._alter(each) for each in outputs]

    def reset(self) -> None:
        self._inner.reset()

    def close(self) -> None:
        self._inner.close()


def with_altered(
    name: str, alter: Callable[[NDArray[Any]], NDArray[Any]], first: int = 0
) -> list[ContenderRow]:
    def altered(each: ContenderRow) -> ContenderRow:
        if each.name != name:
            return each
        return replace(each, make=lambda setting: Altered(each.make(setting), alter, first))

    return [altered(each) for each in CONTENDERS]


def one_bit(values: NDArray[Any]) -> NDArray[Any]:
    other = np.array(values)
    other.reshape(-1)[7] = np.nextafter(other.reshape(-1)[7], np.float32(9))
    return other


def test_a_row_holds_every_promised_figure(row: dict[str, Any], case: Case) -> None:
    assert row.keys() >= PROMISED
    assert (row["model"], row["clip"]) == (case.model, case.clip)
    assert (row["frames"], row["threads"], row["tolerance"]) == (FRAMES - 1, 1, 0.1)
    assert row["size"] == [HEIGHT, WIDTH]
    for name in ("ort", "dense", "exact", "reuse"):
        low, high = row[f"{name}_iqr"]
        assert 0 < low <= row[f"{name}_ms"] <= high
        assert row[f"whole_{name}_ms"] > 0
    assert row["skip4_ms"] == pytest.approx(row["skip2_ms"] / 2, abs=1e-3)
    json.dumps(row, allow_nan=False)


def test_reuse_does_less_and_agrees_more_than_skipping(row: dict[str, Any]) -> None:
    assert 0 < row["exact_macs_share"] < 0.5
    assert 0 < row["macs_share"] < 0.5
    assert row["agreement_kind"] == "psnr"
    assert row["agreement"] > MEASURES["psnr"].floor
    assert 0.98 < row["closeness"] < 1
    assert row["agreement"] > row["skip2_agreement"] > row["skip4_agreement"]
    assert row["agreement_strict"] > 45 > row["skip2_strict"] > row["skip4_strict"]  # dB


def test_the_network_is_compared_with_itself(row: dict[str, Any]) -> None:
    assert row["noise_level"] == 0.5  # the picture stands still apart from a square
    assert 0.5 < row["repeatability"] < 1
    assert 20 < row["repeatability_strict"] < 60  # dB
    assert row["doubts"] == ["8 of its frames have anything to compare, 30 are needed"]


def test_speed_is_against_the_fastest_that_computes_everything(row: dict[str, Any]) -> None:
    known = {n: row[f"{n}_mean_ms"] for n in ("ort", "openvino", "dense") if row[f"{n}_mean_ms"]}
    assert row["fastest_dense"] == min(known, key=lambda name: known[name])
    assert row["reuse_times_fastest"] == pytest.approx(
        min(known.values()) / row["reuse_mean_ms"], rel=0.02
    )
    assert row["reuse_times_ort"] >= row["reuse_times_fastest"]


def test_accuracy_against_the_truth_is_side_by_side(tmp_path: Path) -> None:
    """The only box of the network has nothing to do with the scene, for either side."""
    path = networks.brightness(tmp_path / "brightness.onnx")
    graph = onnx.load(path)
    helper.set_model_props(graph, {"names": "{0: 'cat', 1: 'person'}"})
    onnx.save(graph, path)
    clip = "sample:plaza?size=144x96&seconds=1&fps=12"
    conditions = replace(CONDITIONS, confidence=0.01)
    figures = measure(Case(str(path), clip, frames=6), conditions, memory=False)
    assert figures["boxes"] == 6
    assert (figures["agreement"], figures["mean_iou"], figures["missed_per_minute"]) == (1, 1, 0)
    assert figures["truth_dense_f1"] == figures["truth_reuse_f1"] is not None
    assert "the network finds 6 objects in all frames, 30 are needed" in figures["doubts"]


def test_memory_is_that_of_the_session_at_tolerance(row: dict[str, Any], case: Case) -> None:
    with race.prepare(case, CONDITIONS) as ready:
        contender = ready.contenders["reuse"].contender
        assert isinstance(contender, Reuse)
        memory = contender.memory
    assert row["naive_cache_mb"] == pytest.approx(memory.every_activation / 1e6, abs=1e-4)
    assert row["arena_mb"] == pytest.approx(memory.transient / 1e6, abs=1e-4)
    assert row["lower_bound_mb"] <= row["arena_mb"]


def test_unchanged_frames_are_no_work(network: Path, still: Path) -> None:
    figures = measure(Case(str(network), str(still)), CONDITIONS, memory=False)
    assert (figures["macs_share"], figures["exact_macs_share"]) == (0, 0)
    assert figures["agreement"] == figures["skip4_agreement"] == 1.0
    assert figures["unchanged_ms"] > 0


@pytest.mark.parametrize(
    ("name", "alter", "message"),
    [
        ("dense", lambda a: a + np.float32(0.01), "own dense, frame 0: output 0 is off by 0.01"),
        ("dense", lambda a: a[..., :-1], "own dense, frame 0: output 0 has shape"),
        ("dense", lambda a: a * np.float32(np.nan), "own dense, frame 0: output 0 is off by"),
        ("exact", one_bit, "output 0 of exact reuse is not bit for bit the dense one"),
    ],
)
def test_a_wrong_answer_is_refused_before_the_clock_runs(
    name: str,
    alter: Callable[[NDArray[Any]], NDArray[Any]],
    message: str,
    case: Case,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timed: list[object] = []
    monkeypatch.setattr(bench_row, "race", lambda *_: timed.append(1))
    with pytest.raises(QualityError, match=message):
        measure(case, CONDITIONS, rows=with_altered(name, alter), memory=False)
    assert not timed


def test_exact_answers_are_checked_on_every_timed_frame(case: Case) -> None:
    with pytest.raises(QualityError, match=r"frame 8, output 0 of exact reuse"):
        measure(case, CONDITIONS, rows=with_altered("exact", one_bit, first=14), memory=False)


def test_a_baseline_with_wrong_answers_is_left_out_and_named(case: Case) -> None:
    rows = [
        replace(contender("ort"), name="openvino"),
        *(each for each in CONTENDERS if each.name != "openvino"),
    ]
    wrong = replace(rows[0], make=lambda s: Altered(Onnxruntime(s), lambda a: a + 1))
    figures = measure(case, CONDITIONS, rows=[wrong, *rows[1:]], memory=False)
    assert figures["skipped"]["openvino"].startswith("wrong answer, frame 0: output 0 is off by")
    assert figures["openvino_ms"] is None
    assert figures["ort_ms"] is not None


def test_an_engine_that_is_not_there_is_left_out_with_the_reason(case: Case) -> None:
    def missing(setting: ContenderSetting) -> Contender:
        raise UnavailableError("not installed")

    rows = [replace(r, make=missing) if r.name == "openvino" else r for r in CONTENDERS]
    figures = measure(case, CONDITIONS, rows=rows, memory=False)
    assert figures.keys() >= PROMISED
    assert figures["skipped"] == {"openvino": "not installed"}
    assert (figures["openvino_ms"], figures["openvino_iqr"]) == (None, None)


def test_all_get_the_same_file_and_threads(case: Case) -> None:
    settings: list[ContenderSetting] = []

    def noting(
        make: Callable[[ContenderSetting], Contender],
    ) -> Callable[[ContenderSetting], Contender]:
        return lambda setting: settings.append(setting) or make(setting)  # type: ignore[func-returns-value]

    rows = [replace(each, make=noting(each.make)) for each in CONTENDERS]
    with race.prepare(case, replace(CONDITIONS, threads=2), rows) as ready:
        assert len(settings) == len(CONTENDERS)
        assert all(each is ready.setting for each in settings)
        assert (ready.setting.path, ready.setting.threads) == (ready.model.path, 2)


def test_everyone_is_first_as_often_and_follows_more_than_one_other(case: Case) -> None:
    with race.prepare(case, CONDITIONS, [r for r in CONTENDERS if r.name != "openvino"]) as ready:
        contenders = list(ready.contenders.values())
    orders = [[each.row.name for each in race.order(contenders, index)] for index in range(8)]
    names = sorted(orders[0])
    assert all(sorted(each) == names for each in orders)
    assert sorted(each[0] for each in orders) == sorted(names * 2)
    before = {(a, b) for each in orders for a, b in pairwise(each)}
    assert all(len({a for a, b in before if b == name}) == 2 for name in names)


def test_frames_are_cut_and_counted(clip: Path) -> None:
    crop = Crop.parse("32x16+10+20")
    frames = decoded(Case("", str(clip), frames=4, crop=crop), warm_up=2)
    assert [frame.time_s for frame in frames] == pytest.approx([at / 25 for at in range(6)])
    for index, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.image, moving(index)[20:36, 10:42])
    with pytest.raises(UsageError, match="crop: expected a part of 96x64 pixels, got 32x16"):
        decoded(Case("", str(clip), crop=Crop.parse("32x16+90+0")), warm_up=0)
    with pytest.raises(SourceError, match="expected more than the 9 frames for warming up, got 9"):
        decoded(Case("", str(clip)), warm_up=9)


@pytest.mark.parametrize("text", ["640", "0x5", "3x4+5", "axb", "3x4+5+6 "])
def test_a_crop_is_written_in_one_way(text: str) -> None:
    with pytest.raises(UsageError, match=r"crop: expected WxH\+X\+Y"):
        Crop.parse(text)


def test_gate_settings_are_read() -> None:
    assert gate_settings([]) == GateSettings()
    read = gate_settings(["pixel=4,margin=5", "exact=yes"])
    assert read == GateSettings(pixel=4.0, margin=5, exact=True)
    for text, message in (
        ("speed=3", "--gate: expected NAME=VALUE of pixel, .*, got 'speed=3'"),
        ("margin=1.5", "--gate margin: expected a whole number, got '1.5'"),
        ("exact=maybe", "--gate exact: expected yes or no, got 'maybe'"),
        ("stripes=8", "stripes is no longer a setting: --max-age SECONDS"),
        ("max_age=900", "max_age is no longer a setting: --max-age SECONDS"),
    ):
        with pytest.raises(UsageError, match=message):
            gate_settings([text])


def test_peak_memory_is_of_a_process_of_its_own(network: Path, tmp_path: Path) -> None:
    feed = {"images": np.zeros((1, 3, HEIGHT, WIDTH), np.float32)}
    assert 20 < peak_memory.peak_mb("ort", ContenderSetting(network), feed) < 2000
    with pytest.raises(ModelError, match=r"ort failed in a process of its own: .*cannot load it"):
        peak_memory.peak_mb("ort", ContenderSetting(tmp_path / "none.onnx"), feed)


# --- the command line ---------------------------------------------------------------------------
@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, row: dict[str, Any]) -> list[Any]:
    """What the command asks to be measured; each is answered with `row`, or raised."""
    asked: list[Any] = []
    endings: dict[int, BaseException] = {}

    def answer(case: Case, conditions: Conditions, **_: Any) -> dict[str, Any]:
        asked.append((case, conditions))
        if len(asked) in endings:
            raise endings[len(asked)]
        return {**row, "model": case.model, "clip": case.clip}

    monkeypatch.setattr(bench_row, "measure", answer)
    asked_endings: list[Any] = [asked, endings]
    return asked_endings


def written(path: Path) -> list[tuple[str, str]]:
    return [(each["model"], each["clip"]) for each in json.loads(path.read_text())]


def test_the_command_as_a_user_runs_it(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "figures.json"
    arguments = ["bench", case.model, "--clip", case.clip, "--max-frames", "4", "--no-memory"]
    assert status([*arguments, "--json", str(figures)]) == 0
    (row,) = json.loads(figures.read_text())
    assert row.keys() >= PROMISED
    assert row["frames"] == 4
    assert "own dense" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [figures]
    assert status([*arguments, "--json", str(figures)]) == 5
    assert "overwrite it with --force" in capsys.readouterr().err


@pytest.mark.parametrize("ending", [KeyboardInterrupt(), QualityError("wrong")])
def test_rows_already_measured_stay_in_the_file(
    ending: BaseException,
    measured: list[Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    figures, (asked, endings) = tmp_path / "figures.json", measured
    endings[3] = ending
    code = status(["bench", "a", "--clip", "1", "--clip", "2", "--clip", "3", "--clip", "4",
                   "--json", str(figures)])  # fmt: skip
    interrupted = isinstance(ending, KeyboardInterrupt)
    assert code == (130 if interrupted else 6)
    assert len(asked) == (3 if interrupted else 4)
    rest = [] if interrupted else [("a", "4")]
    assert written(figures) == [("a", "1"), ("a", "2"), *rest]
    assert "at tolerance" in capsys.readouterr().out


def test_what_the_table_names_but_cannot_be_had_is_passed_over(
    measured: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, (asked, endings) = tmp_path / "figures.json", measured
    endings[2] = SourceError("not in the cache")
    assert status(["bench", "--json", str(figures)]) == 0
    assert len(asked) == len(PAIRS)
    assert written(figures) == [row[:2] for i, row in enumerate(PAIRS) if i != 1]
    assert "was left out: not in the cache" in capsys.readouterr().err.replace("\n", " ")


def test_a_profile_skips_frames_no_longer_than_it_names(case: Case) -> None:
    """The clip has 25 frames a second."""
    works = []
    for within_s in (0.03, 0.05, 0.1):
        skipping = FrameSkipping(3, "keep", within_s)
        works.append(
            measure(case, replace(CONDITIONS, frame_skipping=skipping), memory=False)["macs_share"]
        )
    assert works[0] > works[1] > works[2] > 0


def test_what_was_asked_for_by_name_and_cannot_be_had_is_a_fault(measured: list[Any]) -> None:
    measured[1][1] = SourceError("not in the cache")
    assert status(["bench", "centerface", "--clip", "sample:plaza"]) == 3


def test_options_reach_what_is_measured(measured: list[Any]) -> None:
    asked = measured[0]
    assert status(
        ["bench", "m", "--clip", "c", "--threads", "2", "--tolerance", "0.2", "--quick", "--crop",
         "8x6+1+2", "--size", "544x960", "--gate", "margin=5", "--confidence", "0.1", "--every",
         "3", "--between", "follow"]
    ) == 0  # fmt: skip
    ((case, conditions),) = asked
    skipping = FrameSkipping(3, "follow")
    assert case == Case("m", "c", 8, Crop(8, 6, 1, 2), (544, 960))
    assert conditions == Conditions(
        2, 0.2, GateSettings(margin=5), confidence=0.1, frame_skipping=skipping
    )


def test_what_is_stated_of_a_model_reaches_what_is_measured(measured: list[Any]) -> None:
    asked = measured[0]
    words = ["--labels", "a,b", "--scale", "1/255", "--task", "yolov8", "--iou", "0.6"]
    assert status(["bench", "m.onnx", "--clip", "c", *words]) == 0
    ((_, conditions),) = asked
    assert conditions.stated.task == "yolov8"
    assert tuple(conditions.stated.labels) == ("a", "b")
    assert conditions.stated.iou == 0.6
    assert status(["bench", "m.onnx", "--clip", "c", "--scale", "x"]) == 2


def test_a_stated_model_is_measured_as_it_is_stated(case: Case) -> None:
    stated = ModelCard.checked({"task": "tensors"})
    with prepare(case, replace(CONDITIONS, stated=stated), rows=()) as ready:
        assert ready.model.task == "tensors"
    with prepare(replace(case, size=(HEIGHT, WIDTH)), CONDITIONS, rows=()) as ready:
        assert ready.model.size == (HEIGHT, WIDTH)


def test_a_model_alone_runs_on_its_clips_of_the_table(measured: list[Any]) -> None:
    asked = measured[0]
    assert status(["bench", "ppocr-det", "--moving"]) == 0
    assert [case.clip for case, _ in asked] == [r[1] for r in MOVING if r[0] == "ppocr-det"]
    asked.clear()
    assert status(["bench", "unheard-of"]) == 0
    assert [(case.model, case.clip) for case, _ in asked] == [("unheard-of", PAIRS[0][1])]
