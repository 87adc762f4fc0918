"""The change gate: its guarantee as a property, each signal that it must not miss, and its manners.

`Oracle` says the same as the kernels in plain NumPy, one picture at a time.
"""

import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stillframe.errors import UsageError
from stillframe.reuse.gate.change_gate import TURN, ChangeGate
from stillframe.reuse.gate.change_map import ChangeMap
from stillframe.reuse.gate.gate_settings import GateSettings
from stillframe.reuse.gate.noise import LAG, NoiseMeter
from stillframe.reuse.kernels.change_gate import BLOCK, PATCH_SHARE, SIDE

Bytes = NDArray[np.uint8]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

SIZES = [(1, 1), (2, 7), (3, 3), (5, 4), (17, 33), (64, 48), (37, 101)]


def square(side: int) -> Bytes:
    return np.ones((side, side), np.uint8)


def brightness(image: Bytes) -> NDArray[np.int64]:
    red, green, blue = (image[..., c].astype(np.int64) for c in range(3))
    level: NDArray[np.int64] = (red + 2 * green + blue) // 64
    return level


def largest(image: Bytes, reference: Bytes) -> Bytes:
    return np.asarray(cv2.absdiff(image, reference).max(axis=2))


def opened(over: Bools) -> Bytes:
    """The middles of 3x3 squares that lie within the picture and are wholly on."""
    inner = cv2.erode(
        over.astype(np.uint8), square(3), borderType=cv2.BORDER_CONSTANT, borderValue=0
    )
    return np.asarray(inner, np.uint8)


def patch_sums(image: Bytes, reference: Bytes) -> NDArray[np.int64]:
    """(H, W): the largest over channels of |sum of differences in the 5x5 pixels around|."""
    difference = np.pad(image.astype(np.int64) - reference, ((2, 2), (2, 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(difference, (SIDE, SIDE), axis=(0, 1))
    return np.asarray(np.abs(windows.sum(axis=(-1, -2))).max(axis=2))


def block_means(image: Bytes, reference: Bytes) -> NDArray[np.float64]:
    """(h, w): mean difference over pixels and channels of each block."""
    difference = (image.astype(np.int64) - reference).sum(axis=2)
    height, width = difference.shape
    rows, columns = range(0, height, BLOCK), range(0, width, BLOCK)
    return np.array(
        [[difference[y : y + BLOCK, x : x + BLOCK].mean() / 3 for x in columns] for y in rows]
    )


def over_blocks(blocks: Bools, shape: tuple[int, ...]) -> Bools:
    return blocks.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)[: shape[0], : shape[1]]


class Oracle:
    """Follows a gate: what its mask must be, from the frame and what the gate started from."""

    def __init__(self, gate: ChangeGate) -> None:
        self.gate = gate
        self.soft_frames = np.zeros((gate.height, gate.width), np.int64)

    def mask(self, image: Bytes, reference: Bytes, limits: Bytes) -> Bytes:
        """After gate.step(image): reference and limits are those of before it."""
        gate, use = self.gate, self.gate.settings
        limits = limits.copy()
        limits[gate._turn :: TURN] = gate._table[brightness(reference[gate._turn :: TURN])]
        wide = limits.astype(np.int64)
        softened = (wide * round(256 * use.soft)) >> 8
        sums = patch_sums(image, reference)
        strong = (sums > 16 * wide) | (opened(largest(image, reference) > limits) > 0)
        seeds = strong | ((sums > 16 * softened) & (self.soft_frames > 0))
        means, whole = block_means(image, reference), range(0, max(seeds.shape), BLOCK)
        holds = np.array(
            [
                [seeds[y : y + BLOCK, x : x + BLOCK].any() for x in whole[: means.shape[1]]]
                for y in whole[: means.shape[0]]
            ]
        )
        limit = gate.drift_limit
        together = max(np.count_nonzero(sign * means > limit / 2) for sign in (1, -1))
        if (~holds & (np.abs(means) > limit)).any() and together > use.sweep * means.size:
            limit /= 2
        seeds = seeds | over_blocks(np.abs(means) > limit, seeds.shape)
        kernel = square(2 * use.margin + 1)
        warm = cv2.dilate(strong.astype(np.uint8), kernel) > 0
        self.soft_frames = np.where(warm, use.hold, np.maximum(self.soft_frames - 1, 0))
        mask = np.asarray(cv2.dilate(seeds.astype(np.uint8), kernel), dtype=np.uint8)
        if mask.mean() > use.flush:
            self.soft_frames[:] = 0
            mask[:] = 1
        return mask


def blurred(scene: Floats, sigma: float) -> Floats:
    return np.asarray(cv2.GaussianBlur(scene, (0, 0), sigma), np.float64).reshape(scene.shape)


def clip(
    rng: np.random.Generator, height: int, width: int, frames: int, noise: float
) -> list[Bytes]:
    """A textured background that drifts, a moving textured object, a dim one, noise, and a lamp."""
    scene = rng.integers(20, 200, (height, width, 3)).astype(np.float64)
    scene = blurred(scene, 2.0) * 1.4
    thing = rng.integers(0, 256, (max(height // 4, 1), max(width // 5, 1), 3)).astype(np.float64)
    drift = rng.uniform(-0.4, 0.4)
    lamp = rng.integers(0, 60)
    pictures = []
    for index in range(frames):
        picture = scene + drift * index
        y, x = (index * 2) % max(height - 3, 1), (index * 3) % max(width - 3, 1)
        part = picture[y : y + thing.shape[0], x : x + thing.shape[1]]
        part[:] = thing[: part.shape[0], : part.shape[1]]
        picture[height // 2 :, width // 2 + index % 9 : width // 2 + 6 + index % 9] += 12
        if index == frames // 2:
            picture[: height // 3] += lamp
        picture = picture + rng.normal(0, noise, picture.shape) if noise else picture
        pictures.append(np.clip(np.rint(picture), 0, 255).astype(np.uint8))
    return pictures


CHOICES = [
    GateSettings(),
    GateSettings(margin=2, hold=0, least_noise=1.0),
    GateSettings(margin=7, hold=3, soft=0.4, sweep=0.0, pixel=2.0, block=0.3, least_noise=1.5),
]


@pytest.mark.parametrize("chosen", CHOICES, ids=["default", "fine", "soft"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_the_mask_is_what_plain_numpy_says(
    size: tuple[int, int], noise: float, chosen: GateSettings
) -> None:
    rng = np.random.default_rng(abs(hash((size, noise))) % 2**32)
    gate = ChangeGate(*size, chosen)
    oracle = Oracle(gate)
    kinds = set()
    frames = clip(rng, *size, 24, noise)
    gate.step(frames[0])
    for image in frames[1:]:
        reference, limits = gate.reference.copy(), gate.limits.copy()
        change = gate.step(image)
        kinds.add(change.kind)
        if np.array_equal(image, reference):  # nothing is judged, so nothing cools down
            assert change.kind == "unchanged"
            continue
        expected = oracle.mask(image, reference, limits)
        np.testing.assert_array_equal(change.mask, expected)
        assert change.active == pytest.approx(expected.mean())
        assert change.kind == ("all" if expected.all() and expected.mean() > 0.8 else
                               "partial" if expected.any() else "unchanged")  # fmt: skip
    assert size[0] < 16 or "partial" in kinds


@given(seed=st.integers(0, 2**32 - 1), density=st.floats(0.5, 12.0))
@settings(max_examples=40, deadline=None)
def test_a_thin_mark_beside_a_thick_one_is_not_new(seed: int, density: float) -> None:
    """Marks of a few pixels, just beyond a pixel's limit."""
    rng = np.random.default_rng(seed)
    gate = ChangeGate(29, 31, GateSettings(margin=2, block=10.0))
    oracle = Oracle(gate)
    gate.step(grey(29, 31))
    for _ in range(3):
        image, reference, limits = grey(29, 31), gate.reference.copy(), gate.limits.copy()
        for _ in range(rng.poisson(density)):
            y, x = rng.integers(0, 27, 2)
            high, wide = rng.permutation([rng.integers(1, 5), rng.integers(1, 13)])
            image[y : y + high, x : x + wide] = 100 + rng.choice([-17, 17])
        change = gate.step(image)
        if not np.array_equal(image, reference):
            np.testing.assert_array_equal(change.mask, oracle.mask(image, reference, limits))


@given(seed=st.integers(0, 2**32 - 1), noise=st.sampled_from([0.0, 1.0, 4.0, 9.0]),
       size=st.sampled_from(SIZES))  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_what_is_left_is_within_the_stated_bounds(
    seed: int, noise: float, size: tuple[int, int]
) -> None:
    """The guarantee of docs/explanation/gate.md, on every frame of a random clip."""
    gate = ChangeGate(*size)
    for image in clip(np.random.default_rng(seed), *size, 14, noise):
        before = gate.reference.copy()
        change = gate.step(image)
        old = change.mask == 0
        np.testing.assert_array_equal(gate.reference[~old], image[~old])
        np.testing.assert_array_equal(gate.reference[old], before[old])
        assert change.kind == "all" or check_bounds(gate, image, before, old)


def check_bounds(gate: ChangeGate, image: Bytes, before: Bytes, old: Bools) -> bool:
    """What the guarantee promises of the places that were not taken as new; fails where broken."""
    over = largest(image, gate.reference) > gate.limits
    assert not opened(over).any(), "a 3x3 square beyond its limits was left"
    limit = gate.limits.astype(np.float64) * PATCH_SHARE
    mean = patch_sums(image, before) / SIDE**2
    assert not (mean > limit + 1e-9)[old].any(), "a 5x5 patch beyond its limit was left"
    means = np.abs(block_means(image, before))
    untouched = [
        [old[y : y + BLOCK, x : x + BLOCK].all() for x in range(0, gate.width, BLOCK)]
        for y in range(0, gate.height, BLOCK)
    ]
    assert not (means > gate.drift_limit + 1e-9)[np.array(untouched)].any(), "a block drifted"
    return True


@given(seed=st.integers(0, 2**32 - 1), noise=st.sampled_from([0.0, 5.0]))
@settings(max_examples=15, deadline=None)
def test_a_picture_that_stays_is_soon_unchanged_and_wholly_within_the_bounds(
    seed: int, noise: float
) -> None:
    frames = clip(np.random.default_rng(seed), 48, 64, 8, noise)
    gate = ChangeGate(48, 64)
    for image in frames:
        gate.step(image)
    for _ in range(12):
        change = gate.step(frames[-1])
    assert change.kind == "unchanged"
    assert check_bounds(gate, frames[-1], gate.reference, np.ones((48, 64), np.bool_))


def grey(height: int, width: int, level: int = 100) -> Bytes:
    return np.full((height, width, 3), level, np.uint8)


def noisy(rng: np.random.Generator, image: Floats | Bytes, sigma: float | Floats) -> Bytes:
    return np.clip(np.rint(image + rng.normal(0, sigma, image.shape)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("sigma", [0.0, 2.0])
def test_drift_of_one_grey_level_in_ten_frames_is_followed_and_does_not_flicker(
    sigma: float,
) -> None:
    rng = np.random.default_rng(5)
    scene = blurred(rng.uniform(0, 255, (96, 160, 3)), 3.0)
    gate = ChangeGate(96, 160)
    active = []
    for index in range(200):
        image = noisy(rng, scene + 0.1 * index, sigma)
        change = gate.step(image)
        active.append(change.active)
        means = np.abs(block_means(image, gate.reference))
        assert means.max() <= gate.drift_limit + 3 * sigma * 2**0.5 / BLOCK
    news = np.count_nonzero(np.array(active[1:]) > 0)
    assert 4 <= news <= 8  # 20 levels, by steps of the drift limit, each in one frame
    assert min(each for each in active if each > 0) > 0.8


def test_drift_of_one_object_is_followed_without_the_rest() -> None:
    gate = ChangeGate(96, 160)
    total = 0.0
    for index in range(100):
        image = grey(96, 160)
        image[40:72, 60:92] += np.uint8(index // 10)
        change = gate.step(image)
        total += change.active if index else 0
        error = np.abs(image.astype(int) - gate.reference)
        assert error[48:64, 64:80].max() <= gate.drift_limit + 1
    assert 0 < total < 1


@pytest.mark.parametrize("sigma", [1.0, 3.0, 6.0, 10.0])
def test_noise_alone_is_hardly_ever_new(sigma: float) -> None:
    rng = np.random.default_rng(2)
    scene = np.linspace(40, 210, 192)[None, :, None] + np.zeros((144, 1, 3))
    gate = ChangeGate(144, 192)
    active = [gate.step(noisy(rng, scene, sigma)).active for _ in range(60)]
    assert np.mean(active[20:]) < 0.002
    assert np.count_nonzero(active[20:]) <= 3


def test_noise_is_measured_for_each_brightness() -> None:
    rng = np.random.default_rng(3)
    scene = np.linspace(20, 235, 256)[None, :, None] + np.zeros((160, 1, 3))
    gate = ChangeGate(160, 256, GateSettings(least_noise=0.5, most_noise=40, pixel=4))
    for _ in range(80):
        gate.step(noisy(rng, scene, scene / 32))
    # the largest of three differences, each sqrt(2) of a frame's noise: their 0.9 quantile is
    # 2.11 deviations, against 1.645 of one
    expected = np.arange(8, 256, 16) / 32 * 2**0.5 * 2.11 / 1.645
    near = slice(7, 14)
    np.testing.assert_allclose(gate.noise.sigma[near], expected[near], rtol=0.15)
    assert gate.noise.sigma[2] == pytest.approx(0.75 * gate.noise.overall)
    assert np.all(np.diff(gate.noise.sigma[5:14]) > 0)


def test_motion_is_not_taken_for_noise() -> None:
    """Half of the picture moves all the time, with strong texture."""
    rng = np.random.default_rng(4)
    wall = blurred(rng.uniform(0, 255, (128, 600, 3)), 2.0) * 2.5 - 190
    gate = ChangeGate(128, 192)
    for index in range(70):
        scene = np.full((128, 192, 3), 90.0)
        scene[:, :90] = wall[:, 5 * index : 5 * index + 90]
        gate.step(noisy(rng, np.clip(scene, 0, 255), 1.0))
    assert gate.noise.overall == gate.settings.least_noise
    assert np.all(gate.noise.sigma < 1.5 * gate.settings.least_noise)


def test_drift_is_not_taken_for_noise() -> None:
    meter = NoiseMeter(128, 192, 0.5, 30.0)
    scene = np.linspace(30, 180, 192)[None, :, None] + np.zeros((128, 1, 3))
    meter.start(np.rint(scene).astype(np.uint8))
    for index in range(1, 100):
        meter.learn(np.rint(scene + 0.18 * index).astype(np.uint8))  # nearly 6 in LAG frames
    assert meter.overall < 1.0


def test_what_changed_once_is_not_noise_for_ever() -> None:
    meter = NoiseMeter(64, 64, 0.5, 30.0)
    meter.start(grey(64, 64))
    changed = noisy(np.random.default_rng(13), grey(64, 64), 8.0)
    readings = []
    for _ in range(8 * LAG):
        meter.learn(changed)
        readings.append(meter.overall)
    assert max(readings) > 8.0
    assert readings[-1] == 0.5


def test_noise_that_seldom_comes_anew_is_seen_though_it_is_taken_over_at_once() -> None:
    """As in compressed video: blocks keep their noise until they are coded again."""
    rng = np.random.default_rng(14)
    gate = ChangeGate(128, 192, GateSettings(least_noise=0.5, most_noise=30.0))
    image = noisy(rng, grey(128, 192), 5.0)
    for _ in range(80):
        gate.step(image)
        again = rng.random((16, 24)).repeat(8, axis=0).repeat(8, axis=1) < 0.04
        image = np.where(again[..., None], noisy(rng, grey(128, 192), 5.0), image)
    assert gate.noise.overall > 5.0


def test_updates_do_not_hide_the_noise() -> None:
    """A gate whose limits are far too low takes everything over, and must still learn."""
    rng = np.random.default_rng(6)
    gate = ChangeGate(128, 192, GateSettings(least_noise=0.5, most_noise=30.0))
    active = [gate.step(noisy(rng, grey(128, 192), 7.0)).active for _ in range(50)]
    assert active[1] > 0.8
    assert max(active[20:]) < 0.01


def test_a_still_screen_has_the_least_limits() -> None:
    gate = ChangeGate(64, 64)
    for index in range(80):
        image = grey(64, 64, 240)
        image[index % 60 : index % 60 + 3, 10:12] = 0
        gate.step(image)
    assert gate.noise.overall == gate.settings.least_noise
    assert set(np.unique(gate.limits)) == {round(4 * gate.settings.least_noise)}


@pytest.mark.parametrize("at", [(0, 0), (13, 1), (30, 61), (45, 30)])
def test_a_small_thing_is_new_where_it_is_and_where_it_was(at: tuple[int, int]) -> None:
    gate = ChangeGate(48, 64)
    gate.step(grey(48, 64))
    limit = int(gate.limits[0, 0])
    with_thing = grey(48, 64)
    with_thing[at[0] : at[0] + 3, at[1] : at[1] + 3, 1] += np.uint8(limit + 1)
    place = np.zeros((48, 64), np.bool_)
    place[at[0] : at[0] + 3, at[1] : at[1] + 3] = True
    came = gate.step(with_thing)
    assert came.kind == "partial"
    assert came.mask[place].all()
    assert came.active < 0.06
    went = gate.step(grey(48, 64))
    assert went.mask[place].all()
    np.testing.assert_array_equal(gate.reference, grey(48, 64))


def test_a_speck_is_noise() -> None:
    gate = ChangeGate(48, 64)
    gate.step(grey(48, 64))
    image = grey(48, 64)
    image[20, 30] = 255
    assert gate.step(image).kind == "unchanged"
    assert gate.reference[20, 30, 0] == 100


def test_a_dim_thing_is_found_by_its_patches() -> None:
    """Lower in contrast than a pixel's limit, smaller than a block."""
    gate = ChangeGate(64, 64)
    gate.step(grey(64, 64))
    image = grey(64, 64)
    image[27:36, 27:36] += np.uint8(12)
    assert largest(image, grey(64, 64)).max() < gate.limits.min()
    change = gate.step(image)
    assert change.kind == "partial"
    assert change.mask[27:36, 27:36].all()


def test_a_colour_that_changes_at_equal_brightness_is_new() -> None:
    gate = ChangeGate(64, 64)
    gate.step(grey(64, 64))
    image = grey(64, 64)
    image[20:40, 20:40] = (113, 87, 100)
    assert gate.step(image).mask[20:40, 20:40].all()


def test_a_flicker_within_the_limits_is_unchanged_and_beyond_them_is_all() -> None:
    gate = ChangeGate(64, 96)
    gate.step(grey(64, 96))
    quiet = [gate.step(grey(64, 96, 100 + index % 2 * 2)).kind for index in range(20)]
    assert set(quiet) == {"unchanged"}
    loud = [gate.step(grey(64, 96, 100 + index % 2 * 8)).kind for index in range(1, 20)]
    assert set(loud) == {"all"}


def test_an_exposure_that_falls_due_in_one_corner_is_taken_everywhere_at_once() -> None:
    """Blocks that lag behind by a little come in the same frame and not one by one."""
    gate = ChangeGate(96, 160)
    gate.step(grey(96, 160))
    image = grey(96, 160) + np.uint8(3)
    image[:, :32] += np.uint8(1)  # beyond the drift limit of 3.2
    change = gate.step(image)
    assert change.kind == "all"


def test_a_cut_starts_afresh() -> None:
    rng = np.random.default_rng(7)
    gate = ChangeGate(48, 64)
    for _ in range(3):
        image = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        change = gate.step(image)
        assert (change.kind, change.active) == ("all", 1.0)
        assert change.mask.all()
        np.testing.assert_array_equal(gate.reference, image)


def test_where_something_moved_softer_limits_hold_for_some_frames() -> None:
    def dim_after(still: int) -> str:
        gate = ChangeGate(64, 64)
        gate.step(grey(64, 64))
        image = grey(64, 64)
        image[20:40, 20:40] = 160
        gate.step(image)
        for index in range(still):
            image[0, 0] = index + 90  # specks keep the frames from being equal
            assert gate.step(image).kind == "unchanged"
        image[28:32, 28:32] += np.uint8(14)  # a patch's mean of 9: under its limit of 10.2
        return gate.step(image).kind

    hold = GateSettings().hold
    assert [dim_after(still) for still in range(hold + 2)] == (
        ["partial"] * hold + ["unchanged"] * 2
    )


@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0.0, 0.7),
       size=st.sampled_from(SIZES))  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_exact_is_plain_inequality(seed: int, share: float, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    gate = ChangeGate(*size, GateSettings(exact=True, flush=1.0))
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    gate.step(image)
    for _ in range(4):
        before = image.copy()
        image = image.copy()
        where = rng.random(image.shape) < share / 3
        image[where] += rng.integers(1, 3, image.shape, dtype=np.uint8)[where]
        change = gate.step(image)
        np.testing.assert_array_equal(change.mask, (image != before).any(axis=2))
        assert change.active == pytest.approx(change.mask.mean())
        assert change.kind == ("partial" if change.mask.any() else "unchanged")
        np.testing.assert_array_equal(gate.reference, image)


def test_a_corrupt_frame_leaves_no_trace() -> None:
    rng = np.random.default_rng(8)
    frames = clip(rng, 48, 64, 30, 2.0)
    trusting, other = ChangeGate(48, 64), ChangeGate(48, 64)
    for index, image in enumerate(frames):
        if index % 4 == 2:
            before = other.reference.copy()
            change = other.step(frames[0][::-1].copy(), trust=False)
            assert (change.kind, change.active) == ("unchanged", 0.0)
            assert not change.mask.any()
            assert change.reason == "the frame is corrupt"
            np.testing.assert_array_equal(other.reference, before)
        np.testing.assert_array_equal(trusting.step(image).mask, other.step(image).mask)


def test_a_corrupt_first_frame_is_all_there_is_and_nothing_rests_on_it() -> None:
    gate = ChangeGate(48, 64)
    change = gate.step(grey(48, 64, 7), trust=False)
    assert change.kind == "all"
    np.testing.assert_array_equal(gate.reference, grey(48, 64, 7))
    assert gate.step(grey(48, 64, 7)).reason == "first frame"


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("rows", [(0, 20), (0, 1), (7, 13), (19, 20)])
def test_rows_to_renew_are_new_though_nothing_changed(rows: tuple[int, int], exact: bool) -> None:
    gate = ChangeGate(20, 9, GateSettings(exact=exact, flush=1.0))
    still = grey(20, 9)
    gate.step(still)
    change = gate.step(still, renew=rows)
    assert (change.kind, change.renewed) == ("partial", rows)
    assert np.flatnonzero(change.mask.all(axis=1)).tolist() == list(range(*rows))
    assert change.mask.sum() == 9 * (rows[1] - rows[0])
    assert gate.step(still).kind == "unchanged"


def test_rows_to_renew_come_on_top_of_what_is_new() -> None:
    gate = ChangeGate(48, 64)
    gate.step(grey(48, 64))
    image = grey(48, 64)
    image[38:46, 30:40] = 200
    image[5, 5] = 255  # a speck, taken over with its rows
    change = gate.step(image, renew=(0, 12))
    assert change.mask[:12].all()
    assert change.mask[38:46, 30:40].all()
    assert not change.mask[13:28].any()
    np.testing.assert_array_equal(gate.reference, image)


def test_a_reset_gate_is_as_new() -> None:
    frames = clip(np.random.default_rng(9), 48, 64, 40, 6.0)
    used, new = (
        ChangeGate(48, 64),
        ChangeGate(48, 64),
    )
    for image in frames:
        used.step(image)
    used.reset()
    for image in frames[10:]:
        one, other = used.step(image), new.step(image)
        assert (one.kind, one.active, one.reason) == (other.kind, other.active, other.reason)
        np.testing.assert_array_equal(one.mask, other.mask)
        np.testing.assert_array_equal(used.reference, new.reference)


def test_an_adopted_frame_is_the_reference() -> None:
    gate = ChangeGate(48, 64)
    gate.step(grey(48, 64))
    speck = grey(48, 64)
    speck[20, 30] = 255
    array = gate.reference
    assert gate.step(speck).kind == "unchanged"
    gate._adopt(speck)
    assert gate.reference is array
    np.testing.assert_array_equal(gate.reference, speck)
    dark = ChangeGate(48, 64)
    dark.step(grey(48, 64))
    dark._table[:] = np.arange(16) + 10
    dark._adopt(speck)
    assert (dark.limits[20, 30], dark.limits[0, 0]) == (25, 16)


@pytest.mark.parametrize("exact", [False, True])
def test_nothing_is_allocated_for_a_frame(exact: bool) -> None:
    frames = clip(np.random.default_rng(10), 120, 200, 12, 3.0)
    gate = ChangeGate(120, 200, GateSettings(exact=exact))
    for image in frames:
        gate.step(image)
    arrays = {id(gate.reference), id(gate._mask), id(gate.limits)}
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    for image in frames * 3:
        change = gate.step(image)
        assert change.mask is gate._mask
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert {id(gate.reference), id(gate._mask), id(gate.limits)} == arrays
    assert peak - before < 120 * 200 / 2  # less than half a byte a pixel: no plane was made


def test_a_picture_of_strided_rows_is_taken_as_it_looks() -> None:
    wide = np.random.default_rng(11).integers(0, 256, (16, 40, 3), dtype=np.uint8)
    gate = ChangeGate(16, 20)
    gate.step(wide[:, ::2])
    np.testing.assert_array_equal(gate.reference, wide[:, ::2])


def test_maps_can_be_made_without_a_gate() -> None:
    every, none = ChangeMap.full(3, 5), ChangeMap.none(3, 5)
    assert (every.mask.sum(), every.active, every.kind) == (15, 1.0, "all")
    assert (none.mask.sum(), none.active, none.kind) == (0, 0.0, "unchanged")
    assert every.mask.shape == none.mask.shape == (3, 5)
    assert every.mask.dtype == none.mask.dtype == np.uint8


ERRORS = [
    ({"margin": 1}, "change gate: margin lies in 2 .. 64, got 1"),
    ({"flush": 0.0}, "change gate: flush lies in 0.01 .. 1, got 0.0"),
    ({"pixel": float("nan")}, "change gate: pixel lies in 0.1 .. 40, got nan"),
    ({"least_noise": 5.0, "most_noise": 4.0},
     "change gate: most_noise is at least least_noise, 5.0, got 4.0"),
    ({"pixel": 30.0, "most_noise": 10.0},
     "change gate: pixel times most_noise is a limit in grey levels, at most 250, got 300"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "message"), ERRORS, ids=[m[13:40] for _, m in ERRORS])
def test_settings_that_make_no_sense_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        GateSettings(**values)  # type: ignore[arg-type]
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "image", [np.zeros((8, 9, 3), np.uint8), np.zeros((9, 8, 3)), np.zeros((9, 8), np.uint8)]
)
def test_another_picture_than_the_gate_was_made_for_is_refused(image: NDArray[np.generic]) -> None:
    with pytest.raises(UsageError, match=r"expected \(9, 8, 3\) uint8, got .* one gate serves"):
        ChangeGate(9, 8).step(image)  # type: ignore[arg-type]


def test_the_noise_of_every_fourth_row_is_looked_at_in_turn() -> None:
    """A camera whose noise is only in the lowest rows is still found to be noisy there."""
    rng = np.random.default_rng(12)
    gate = ChangeGate(256, 64, GateSettings(least_noise=0.5, most_noise=20.0))
    for _ in range(2 * LAG):
        image = grey(256, 64, 40)
        image[:64] = 200
        image[:64] = noisy(rng, image[:64], 3.0)
        gate.step(image)
    assert gate.noise.sigma[200 // 16] > 3 * gate.noise.sigma[40 // 16] / 2
