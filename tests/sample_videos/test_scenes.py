"""The drawn clips: ground truth against the pictures themselves, and the files made of them."""

import gc
import math
import weakref
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from stillframe import sample_videos
from stillframe.errors import SourceError, UsageError
from stillframe.sample_videos import SCENES, Options, encode
from stillframe.sample_videos.drawing import lettering
from stillframe.sample_videos.drawing.camera import Camera
from stillframe.sample_videos.drawing.canvas import Sprite, place
from stillframe.sample_videos.drawing.drone import Drone
from stillframe.sample_videos.drawing.head import Appearance, Expression, Head
from stillframe.sample_videos.drawing.lights import LEVELS, Light
from stillframe.sample_videos.drawing.noise import SensorNoise
from stillframe.sample_videos.drawing.street import cast
from stillframe.sample_videos.scenes.cut_outs import CutOut, stack
from stillframe.sample_videos.scenes.routes import RAMP_S, Walk
from stillframe.sample_videos.scenes.scenes import draw
from stillframe.sample_videos.truth import LABELS, SceneFrame, Thing

SMALL = Options(size=(192, 108), seconds=1, fps=10, noise=0)
WHOLE = frozenset({"person", "car", "van", "bus", "house", "cursor"})
"""Labels whose boxes are the extents of what the instance mask shows."""


@pytest.fixture(scope="module", params=list(SCENES))
def clip(request: pytest.FixtureRequest) -> tuple[str, list[SceneFrame]]:
    """Each scene for twelve seconds at two frames per second."""
    name = str(request.param)
    return name, list(draw(name, replace(SMALL, seconds=12, fps=2)))


# --- the truth, recomputed from the pictures


def test_changed_is_where_the_clean_picture_differs_from_the_one_before(
    clip: tuple[str, list[SceneFrame]],
) -> None:
    frames = clip[1]
    assert frames[0].changed.all()
    for before, now in pairwise(frames):
        differs = (now.clean.astype(int) != before.clean.astype(int)).any(axis=2)
        np.testing.assert_array_equal(now.changed, differs)
        assert now.unchanged == (not differs.any())


def test_boxes_are_the_extents_of_the_instances(clip: tuple[str, list[SceneFrame]]) -> None:
    for frame in clip[1]:
        for thing in frame.things:
            if thing.label not in WHOLE:
                continue
            rows, columns = np.nonzero(frame.instances == thing.identity)
            extent = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert thing.xyxy == extent, (frame.index, thing)


def test_every_instance_is_named_once_and_lies_in_the_picture(
    clip: tuple[str, list[SceneFrame]],
) -> None:
    for frame in clip[1]:
        height, width = frame.instances.shape
        named = [t.identity for t in frame.things if t.label not in {"face", "text", "lamp"}]
        assert sorted(named) == sorted(set(np.unique(frame.instances).tolist()) - {0})
        for thing in frame.things:
            x0, y0, x1, y1 = thing.xyxy
            assert x0 < x1, thing
            assert y0 < y1, thing
            if thing.label != "lamp":  # the halo of one may reach over the edge
                assert min(x0, y0) >= 0, thing
                assert x1 <= width, thing
                assert y1 <= height, thing
            assert 0 < thing.visible <= 1
        assert frame.xyxy.shape == (len(frame.things), 4)
        assert [LABELS[n] for n in frame.class_id] == [t.label for t in frame.things]


def test_faces_belong_to_a_person(clip: tuple[str, list[SceneFrame]]) -> None:
    faces = 0
    for frame in clip[1]:
        persons = {t.identity: t.xyxy for t in frame.named("person")}
        for face in frame.named("face"):
            faces += 1
            middle = (face.xyxy[0] + face.xyxy[2]) / 2
            assert persons[face.identity][0] - 2 <= middle <= persons[face.identity][2] + 2
    assert (faces > 0) == (clip[0] not in {"screen", "pan"})


@pytest.mark.parametrize("clip", ["plaza", "night"], indirect=True)
def test_what_moves_covers_part_of_what_changed(clip: tuple[str, list[SceneFrame]]) -> None:
    """Where the camera stands still, a pixel that somebody arrives at is among those changed."""
    frames = clip[1]
    seen = 0
    for before, now in pairwise(frames):
        for thing in now.named("car", "person"):
            mask = now.instances == thing.identity
            arrived = mask & (before.instances != thing.identity)
            if thing.visible > 0.9 and arrived.sum() > 40:
                seen += 1
                assert now.changed[arrived].mean() > 0.9, (now.index, thing)
    assert seen > 5


# --- seeds, times, noise, memory


@pytest.mark.parametrize("name", list(SCENES))
def test_a_seed_gives_one_clip_whatever_its_length_and_rate(name: str) -> None:
    options = replace(SMALL, seconds=0.3, noise=None)
    first = list(draw(name, options))
    longer = list(islice(draw(name, replace(options, seconds=50)), 3))
    assert [f.image.tobytes() for f in first] == [f.image.tobytes() for f in longer]
    assert [f.instances.tobytes() for f in first] == [f.instances.tobytes() for f in longer]
    assert [f.things for f in first] == [f.things for f in longer]
    faster = list(draw(name, replace(options, fps=20)))
    assert [f.clean.tobytes() for f in first] == [f.clean.tobytes() for f in faster[::2]]
    other = next(draw(name, replace(options, seed=1)))
    assert (other.clean != first[0].clean).any(axis=2).mean() > 0.02


def test_noise_is_as_strong_as_asked_for_and_new_in_each_frame() -> None:
    random = np.random.default_rng(5)
    sensor = SensorNoise(320, 180, 6.0, random)
    grey = np.full((180, 320, 3), 128, np.uint8)
    grains = [sensor.add(grey, random).astype(float) - 128 for _ in range(8)]
    for grain in grains:
        assert abs(grain.mean()) < 0.2
        assert 5.4 < grain.std() < 6.6
    for first, second in pairwise(grains):
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.05
    dark = sensor.add(np.full_like(grey, 30), random).astype(float).std()
    bright = sensor.add(np.full_like(grey, 210), random).astype(float).std()
    assert dark < 4.9 < 6.9 < bright


def test_noise_leaves_the_truth_alone() -> None:
    clean = list(draw("plaza", replace(SMALL, seconds=0.3)))
    noisy = list(draw("plaza", replace(SMALL, seconds=0.3, noise=10)))
    for without, with_noise in zip(clean, noisy, strict=True):
        assert without.image is without.clean
        np.testing.assert_array_equal(without.clean, with_noise.clean)
        np.testing.assert_array_equal(without.changed, with_noise.changed)
        apart = with_noise.image.astype(float) - with_noise.clean
        assert 7 < apart.std() < 13


@pytest.mark.parametrize("name", ["plaza", "pan"])
def test_frames_are_drawn_one_by_one_and_let_go(name: str) -> None:
    frames = draw(name, replace(SMALL, seconds=3600, noise=3))
    old = [weakref.ref(next(frames).image) for _ in range(4)]
    gc.collect()
    assert [ref() is None for ref in old] == [True] * 4


# --- what makes each scene what it is


def test_plaza_has_still_ground_walkers_cars_and_occlusion() -> None:
    frames = list(draw("plaza", replace(SMALL, seconds=16, fps=3)))
    for frame in frames[1:]:
        assert 0 < frame.changed.mean() < 0.4
    labels = {thing.label for frame in frames for thing in frame.things}
    assert {"person", "face", "car"} <= labels
    assert min(t.visible for f in frames for t in f.named("person", "car")) < 0.5
    # walkers throw shadows: ground that belongs to no instance changes too
    assert any((frame.changed & (frame.instances == 0)).mean() > 0.005 for frame in frames[1:])


def test_desk_drifts_in_exposure_while_the_room_stands_still() -> None:
    frames = list(draw("desk", replace(SMALL, seconds=12, fps=10)))
    corner = np.array([frame.clean[:30, -30:].mean() for frame in frames])
    assert np.ptp(corner) > 2.5
    assert np.abs(np.diff(corner)).max() < 0.6
    assert all(len(frame.named("face")) == 1 for frame in frames)
    mouths = [frame.clean[60:70, 80:110].astype(int) for frame in frames]
    assert max(np.abs(a - b).max() for a, b in pairwise(mouths)) > 25  # it talks


def test_screen_rests_for_long_and_changes_little_otherwise() -> None:
    frames = list(draw("screen", replace(SMALL, size=(192, 108), seconds=20, fps=30)))[1:]
    still = "".join("." if frame.unchanged else "x" for frame in frames)
    assert 0.4 < still.count(".") / len(still) < 0.85
    assert max(map(len, still.split("x"))) >= 30
    shares = [frame.changed.mean() for frame in frames if not frame.unchanged]
    assert np.median(shares) < 0.05
    assert max(shares) > 0.1  # a page scrolls
    resting = next(i for i in range(len(frames)) if frames[i].unchanged and frames[i - 1].unchanged)
    assert frames[resting].clean is frames[resting - 1].clean
    labels = {thing.label for frame in frames for thing in frame.things}
    assert labels == {"window", "text", "cursor"}


def test_pan_moves_every_textured_pixel() -> None:
    frames = list(draw("pan", replace(SMALL, seconds=3, fps=10)))
    for frame in frames[1:]:
        assert frame.changed.mean() > 0.7


def test_cuts_change_everything_at_once_and_are_marked() -> None:
    frames = list(draw("cuts", replace(SMALL, seconds=12, fps=6)))
    cuts = [frame for frame in frames if frame.cut]
    assert 3 <= len(cuts) <= 11
    for before, now in pairwise(frames):
        apart = np.abs(now.clean.astype(int) - before.clean).mean()
        assert (apart > 40) == now.cut, now.index


def test_night_lights_switch_where_nothing_moves() -> None:
    frames = list(draw("night", replace(SMALL, seconds=16, fps=3)))
    assert 10 < np.mean([frame.clean.mean() for frame in frames]) < 60
    assert SCENES["night"].noise >= 8
    lamps = {tuple(t.identity for t in frame.named("lamp")) for frame in frames}
    assert len(lamps) > 1
    upper = [frame.clean[:30].astype(int) for frame in frames]  # fronts and sky: nobody walks there
    assert sum(np.abs(a - b).max() > 60 for a, b in pairwise(upper)) >= 2


def test_a_light_ramps_up_and_down_and_knows_its_times() -> None:
    light = Light(np.zeros((1, 1, 3), np.uint8), 0, 0, period_s=10, share_on=0.4, start=0.0)
    assert [light.level(t) for t in (0.0, 0.06, 0.2, 3.8, 3.94, 5.0)] == [
        0, LEVELS // 2, LEVELS, LEVELS, LEVELS // 2, 0,
    ]  # fmt: skip
    assert light.level(0.2) == light.level(20.2)


def test_a_walker_slows_stops_and_starts_without_a_jump() -> None:
    points = np.array([(0.0, 10.0), (20.0, 10.0)])
    reach = np.array([0.0, 20.0])
    walk = Walk(points, reach, speed=1.4, stop_m=7, stop_s=2, period_s=40, offset_s=0)
    times = np.arange(0, 15, 0.02)
    places = [walk.at(float(time)) for time in times]
    x = np.array([place[0] for place in places if place])
    steps = np.diff(x) / 0.02
    assert steps.max() < 1.41
    assert steps.min() > -1e-9
    assert np.abs(np.diff(steps)).max() < 1.4 * 0.02 / RAMP_S * 1.5
    assert np.isclose(steps, 0).sum() * 0.02 == pytest.approx(2, abs=0.1)
    assert walk.at(20.0) is None


def test_the_drone_maps_ground_points_like_any_others() -> None:
    drone = Drone(640, 360, x=12, z=-30, altitude=50, yaw=0.2, pitch=0.9)
    ground = np.array([(3.0, 0.0, 12.0), (-20.0, 0.0, 30.0), (40.0, 0.0, 5.0)])
    pixels, depth = drone.project(ground)
    mapped = drone.ground() @ np.array([(x, z, 1.0) for x, _, z in ground]).T
    np.testing.assert_allclose((mapped[:2] / mapped[2]).T, pixels)
    assert (depth > 0).all()
    ahead = (12 + 10 * math.sin(0.2), 50 - 10 * math.tan(0.9), -30 + 10 * math.cos(0.2))
    np.testing.assert_allclose(drone.project(ahead)[0], (320, 180), atol=1e-6)
    foot, top = drone.project([(3.0, 0.0, 12.0), (3.0, 8.0, 12.0)])[0]
    assert top[1] < foot[1] - 10  # what is high is high in the picture
    north, east = drone.project([(3.0, 0.0, 22.0), (13.0, 0.0, 12.0)])[0]
    assert north[1] < foot[1] - 10
    assert east[0] > foot[0] + 10


def test_the_sun_throws_shadows_to_the_right_and_away() -> None:
    camera = Camera(320, 180)
    foot = camera.point(0, 0, 8)
    scale = camera.scale(8)
    left, top, high = round(foot[0]) - 3, round(foot[1] - 1.8 * scale), round(1.8 * scale)
    post = Sprite(np.zeros((high, 6, 3), np.uint8), np.full((high, 6), 255, np.uint8), left, top)
    ground = np.full((180, 320, 3), 200, np.uint8)
    cast(ground, post, camera, 8.0)
    rows, columns = np.nonzero(ground[:, :, 0] < 160)
    assert ground.min() < 140
    assert columns.min() >= left - 4
    assert columns.max() > left + 0.4 * high
    assert rows.max() <= foot[1] + 4
    assert foot[1] - 0.6 * high < rows.min() < foot[1] - 0.1 * high


def test_a_head_blinks_talks_looks_and_turns() -> None:
    head = Head(Appearance(), 128, np.random.default_rng(0))

    def change(first: Expression, second: Expression) -> tuple[float, float]:
        """How much the upper and the lower half of the face differ."""
        views = [head.view(96, expression=mood)[0].astype(int) for mood in (first, second)]
        apart = np.abs(views[0] - views[1]).mean(axis=(1, 2))
        return float(apart[40:70].max()), float(apart[78:110].max())

    calm = Expression()
    for mood, upper in (
        (Expression(lids=0.0), True),
        (Expression(gaze=(1.0, 0.0)), True),
        (Expression(mouth=1.0), False),
    ):
        eyes, mouth = change(calm, mood)
        assert (eyes > 2) == upper, mood
        assert (mouth > 2) != upper, mood
    hair = np.array(Appearance().hair).sum()
    share = []
    for yaw in (0.0, 0.8, 1.6, math.pi):
        colour, cover = head.view(96, yaw=yaw)
        share.append(float((colour[cover > 250].sum(axis=1) > 1.8 * hair).mean()))
    assert share == sorted(share, reverse=True)  # less and less skin, down to the neck
    assert share[0] > 2 * share[-1]


def test_a_sprite_over_the_edge_is_cut_off_and_marks_what_it_hides() -> None:
    picture = np.full((5, 7, 3), 100, np.uint8)
    instances = np.zeros((5, 7), np.uint8)
    cover = np.array([[255, 255, 255], [255, 127, 128]], np.uint8)
    colour = np.full((2, 3, 3), 20, np.uint8)
    place(picture, Sprite(colour, cover, -1, 4), instances=instances, identity=9)
    assert instances.nonzero()[0].tolist() == [4, 4]
    assert picture[4, :3, 0].tolist() == [20, 20, 100]
    place(picture, Sprite(colour, cover, 0, 0), instances=instances, identity=3)
    assert instances[:2, :3].tolist() == [[3, 3, 3], [3, 0, 3]]
    assert picture[1, 1, 0] == 70  # 20 + 100 * 128 / 255


def test_the_nearer_layer_hides_the_farther_one_and_a_prop_hides_both() -> None:
    def sheet(left: int, tone: int) -> Sprite:
        full = np.full((4, 4), 255, np.uint8)
        return Sprite(np.full((4, 4, 3), tone, np.uint8), full, left, 1)

    picture = np.zeros((6, 12, 3), np.uint8)
    layers = [
        CutOut(5.0, sheet(2, 50), 1, "person"),
        CutOut(9.0, sheet(4, 90), 2, "car"),
        CutOut(2.0, sheet(-3, 20)),  # a prop hides columns 0 only
        CutOut(3.0, sheet(7, 30)),  # and one hides the car's right half
    ]
    instances, things = stack(picture, layers)
    assert instances[2].tolist() == [0, 0, 1, 1, 1, 1, 2, 0, 0, 0, 0, 0]
    assert picture[2, :, 0].tolist() == [20, 0, 50, 50, 50, 50, 90, 30, 30, 30, 30, 0]
    assert things == (
        Thing(2, "car", (6.0, 1.0, 7.0, 5.0), 0.25),
        Thing(1, "person", (2.0, 1.0, 6.0, 5.0), 1.0),
    )


def test_text_can_be_written_without_outline_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lettering, "_OUTLINES", False)
    lettering.mask.cache_clear()
    try:
        assert 20 < lettering.width("meander", 16) < lettering.width("meander more", 16)
        picture = np.full((30, 160, 3), 255, np.uint8)
        box = lettering.write(picture, "meander", (10, 20), 16, (0, 0, 0))
    finally:
        lettering.mask.cache_clear()
    assert box is not None
    rows, columns = np.nonzero(picture.min(axis=2) < 250)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == pytest.approx(
        box, abs=1
    )
    assert picture.min() < 90


# --- options

SIDES = "even width and height of 96 to 4096 pixels"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": (641, 360)}, f"size: expected {SIDES}, got 641x360"),
        ({"size": (64, 64)}, f"size: expected {SIDES}, got 64x64"),
        ({"size": (1000, 100)}, "size: expected sides of at most 4:1, got 1000x100"),
        ({"seconds": 0}, "seconds: expected more than 0, at most 3600, got 0"),
        ({"seconds": float("nan")}, "seconds: expected more than 0, at most 3600, got nan"),
        ({"fps": 1000}, "fps: expected 1 to 240, got 1000"),
        ({"noise": -1}, "noise: expected 0 to 64, got -1"),
        ({"seed": -1}, "seed: expected a whole number from 0, got -1"),
    ],
)  # fmt: skip
def test_options_that_make_no_clip_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Options(**values)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("fps", "seconds", "rate", "count"),
    [
        (30, 20, "30", 600),
        (29.97, 10, "30000/1001", 300),
        (12.5, 2, "25/2", 25),
        (10, 0.01, "10", 1),
    ],
)
def test_rates_are_exact_and_there_is_always_a_frame(
    fps: float, seconds: float, rate: str, count: int
) -> None:
    options = Options(fps=fps, seconds=seconds)
    assert (str(options.rate), options.frame_count) == (rate, count)


# --- files


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STILLFRAME_CACHE", str(tmp_path))
    return tmp_path


def decoded(path: Path) -> list[np.ndarray[Any, Any]]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("name", ["desk", "screen"])
def test_a_clip_is_h264_that_declares_its_times_and_colours(name: str, cache: Path) -> None:
    path = sample_videos.resolve(name, size=(256, 144), seconds=1, fps=12)
    assert path.parent == cache / "samples"
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height, stream.frames) == (256, 144, 12)
        assert stream.average_rate == 12
        tags = (context.colorspace, context.color_primaries, context.color_trc, context.color_range)
        assert tags == (1, 1, 1, 1)
        assert [frame.pts for frame in container.decode(video=0)] == [n * 1024 for n in range(12)]
    truths = list(sample_videos.truth(name, size=(256, 144), seconds=1, fps=12))
    for picture, frame in zip(decoded(path), truths, strict=True):
        assert np.abs(picture.astype(int) - frame.image).mean() < 6
        assert np.abs((picture.astype(int) - frame.image).mean(axis=(0, 1))).max() < 2.5


def test_screen_frames_that_did_not_change_decode_bit_for_bit_the_same(cache: Path) -> None:
    spec = "screen?size=240x136&seconds=12&seed=4"
    pictures = decoded(sample_videos.resolve(spec))
    frames = list(sample_videos.truth(spec))
    assert len(pictures) == len(frames) == 360
    unchanged = 0
    for index in range(1, 360):
        same = np.array_equal(pictures[index], pictures[index - 1])
        assert same or not frames[index].unchanged, index
        unchanged += frames[index].unchanged
    assert unchanged > 120


def test_a_clip_is_drawn_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[tuple[int, int]] = []
    first = sample_videos.resolve(
        "screen", size=(160, 96), seconds=0.5, fps=10,
        progress=lambda done, total: reports.append((done, total)),
    )  # fmt: skip
    assert reports == [(n, 5) for n in range(1, 6)]

    def never(*_: object) -> Iterator[SceneFrame]:
        raise AssertionError("drawn again")

    monkeypatch.setattr(encode, "draw", never)
    assert sample_videos.resolve("screen?size=160x96&seconds=0.5&fps=10") == first
    assert [path.name for path in first.parent.iterdir()] == [first.name]


@pytest.mark.parametrize(
    "other", [{"size": (100, 96)}, {"seconds": 3}, {"fps": 24}, {"noise": 1}, {"seed": 8}]
)
def test_whatever_changes_the_pictures_changes_the_file_name(other: dict[str, Any]) -> None:
    base = Options(size=(96, 96), seconds=2)
    assert encode.file_name("desk", base) != encode.file_name("desk", replace(base, **other))
    assert encode.file_name("desk", base) == encode.file_name("desk", replace(base, noise=2.0))
    assert encode.file_name("desk", base) != encode.file_name("plaza", base)


def test_a_clip_that_fails_halfway_leaves_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(name: str, options: Options) -> Iterator[SceneFrame]:
        yield from islice(draw(name, options), 3)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(encode, "draw", failing)
    with pytest.raises(SourceError, match=r"cannot be written \(No space left on device\)"):
        sample_videos.resolve("screen", size=(160, 96), seconds=1)
    assert list((cache / "samples").iterdir()) == []


def test_a_cache_that_is_no_folder_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STILLFRAME_CACHE", str(tmp_path / "file"))
    with pytest.raises(SourceError, match="set STILLFRAME_CACHE to a folder that can"):
        sample_videos.resolve("screen", size=(160, 96), seconds=0.1)


# --- an independent eye


@pytest.mark.fetch
def test_a_face_detector_finds_the_drawn_faces() -> None:
    """CenterFace, which never saw a drawing, agrees with the ground truth about the faces."""
    import onnxruntime

    from stillframe.errors import ModelError
    from stillframe.models import zoo
    from stillframe.models.results import Detections

    try:
        model = zoo.load("centerface", confidence=0.25).for_source(720, 1280)
    except ModelError as e:
        if "cannot be reached" not in str(e):
            raise
        pytest.skip(f"centerface cannot be fetched: {e}")
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model.path), settings)

    def scores(name: str, seed: int) -> list[float]:
        """The detector's score for each face that can be seen well, 0 for those it misses."""
        scores = []
        for frame in draw(name, Options(seconds=3, fps=1, seed=seed)):
            fitted, view = model.fit(frame.image)
            result = model.decode(session.run(None, model.feed(fitted)), view)
            assert isinstance(result, Detections)
            for face in frame.named("face"):
                if face.visible > 0.8 and face.xyxy[3] - face.xyxy[1] >= 20:
                    both = zip(result.xyxy.tolist(), result.confidence.tolist(), strict=True)
                    matches = [s for box, s in both if overlap(box, face.xyxy) > 0.3]
                    scores.append(max(matches, default=0.0))
        return scores

    desk = scores("desk", 0)
    assert len(desk) == 3
    assert min(desk) > 0.7
    plaza = scores("plaza", 1)
    assert len(plaza) >= 3
    assert np.mean(np.array(plaza) > 0.3) > 0.6


def overlap(first: list[float], second: tuple[float, ...]) -> float:
    wide = min(first[2], second[2]) - max(first[0], second[0])
    high = min(first[3], second[3]) - max(first[1], second[1])
    inner = max(wide, 0) * max(high, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return inner / (sum(areas) - inner)
