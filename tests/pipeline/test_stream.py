"""The library's front door, and reading ahead of it in a thread of its own."""

import gc
import itertools
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import stillframe
from stillframe.errors import SourceError, StillframeError, UsageError
from stillframe.models.results import Detections
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.media.prefetch import Prefetcher
from tests import networks
from tests.hang_guard import ends
from tests.hostile import media


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return networks.brightness(tmp_path_factory.mktemp("models") / "brightness.onnx")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return media.clip(tmp_path_factory.mktemp("clips") / "numbers.mp4", 12)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    gc.collect()
    assert set(threading.enumerate()) <= before


def test_there_is_a_result_for_each_frame(network: Path, clip: Path) -> None:
    results = list(stillframe.stream(clip, network, confidence=0))
    assert len(results) == 12
    assert all(isinstance(result, Detections) and len(result) == 1 for result in results)
    assert results[0].evidence.provenance == "computed"


def test_frames_come_along_when_asked_for(network: Path, clip: Path) -> None:
    pairs = list(stillframe.stream(str(clip), str(network), with_frame=True, confidence=0))
    assert [frame.index for frame, _ in pairs] == list(range(12))
    assert [media.number_of(frame.image) for frame, _ in pairs] == list(range(12))
    for frame, result in pairs:
        assert isinstance(result, Detections)
        if result.evidence.provenance == "computed":
            expected = (frame.image.astype(np.float64) / 255).mean()
            assert result.confidence[0] == pytest.approx(expected, abs=1e-3)


def test_a_loaded_model_is_taken_as_it_is(network: Path, clip: Path) -> None:
    model = stillframe.load(network, confidence=0)
    for least, count in ((None, 1), (0.99, 0)):
        result = next(stillframe.stream(clip, model, confidence=least))
        assert isinstance(result, Detections)
        assert len(result) == count
    with pytest.raises(UsageError, match=r"task: expected detection, .* got image"):
        next(stillframe.stream(clip, model, task="image"))


def test_a_stream_that_is_dropped_or_closed_gives_everything_back(
    network: Path, clip: Path
) -> None:
    stream = stillframe.stream(clip, network)
    next(stream)
    assert any(thread.name == "stillframe-decode" for thread in threading.enumerate())
    stream.close()
    assert next(stream, None) is None
    for _ in stillframe.stream(clip, network):
        break


def test_what_is_wrong_with_an_argument_is_reported_at_once(network: Path, clip: Path) -> None:
    with pytest.raises(UsageError, match="every: expected 1 or more"):
        stillframe.stream(clip, network, every=0)
    with pytest.raises(UsageError, match="reuse"):
        stillframe.stream(clip, network, reuse="some")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"argument 'treads' \(did you mean 'threads'\?\)"):
        stillframe.stream(clip, network, treads=2)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="unexpected keyword argument 'islands'"):
        stillframe.stream(clip, network, islands=None)  # type: ignore[call-overload]


def test_a_profile_may_be_a_path(network: Path, clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    with pytest.raises(UsageError, match=r"profile\.json"):
        stillframe.stream(clip, network, reuse="layer", profile=path)


@pytest.mark.parametrize(
    ("source", "model"), [("nowhere.mp4", None), (None, "nowhere.onnx"), (None, "no-such-model")]
)
def test_what_cannot_be_had_is_reported_with_the_first_frame(
    source: str | None, model: str | None, network: Path, clip: Path
) -> None:
    stream = stillframe.stream(source or clip, model or network)
    with pytest.raises(StillframeError, match=r"nowhere|no-such-model"):
        next(stream)


# --- reading ahead -------------------------------------------------------------------------------


class Numbers:
    """A source of numbered frames that notes how many were taken from it."""

    def __init__(self, count: int, fails_at: int | None = None, blocks_at: int | None = None):
        self.count, self.fails_at, self.blocks_at = count, fails_at, blocks_at
        self.taken = 0
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self.count):
            if index == self.fails_at:
                raise SourceError("numbers: the camera went away")
            if index == self.blocks_at:
                self.closed.wait()
                return
            self.taken += 1
            image = np.zeros((1, 1, 3), np.uint8)
            yield Frame(image, index, index / 25, index, Fraction(1, 25))

    def close(self) -> None:
        self.closed.set()


def settled(numbers: Numbers) -> int:
    """How many frames were taken once that number stands still."""
    last = -1
    while last != numbers.taken:
        last = numbers.taken
        time.sleep(0.15)
    return last


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_it_reads_that_many_frames_ahead_and_no_more(depth: int) -> None:
    numbers = Numbers(20)
    with Prefetcher(numbers, depth) as ahead:
        assert settled(numbers) == depth
        stream = iter(ahead)
        assert next(stream).index == 0
        assert settled(numbers) == depth + 1
        assert [frame.index for frame in stream] == list(range(1, 20))
    assert numbers.closed.is_set()


def test_a_failure_comes_after_the_frames_before_it() -> None:
    with Prefetcher(Numbers(9, 5), 3) as ahead:
        stream = iter(ahead)
        assert [next(stream).index for _ in range(5)] == list(range(5))
        with pytest.raises(SourceError):
            next(stream)


def test_a_source_that_blocks_is_closed_within_moments() -> None:
    numbers = Numbers(9, blocks_at=2)
    with Prefetcher(numbers, 2) as ahead:
        assert [frame.index for frame in itertools.islice(ahead, 2)] == [0, 1]
        ends(ahead.close)


def test_stop_ends_a_wait_for_the_next_frame() -> None:
    with Prefetcher(Numbers(9, blocks_at=2), 0) as ahead:
        threading.Timer(0.2, ahead.stop).start()
        assert len(list(ahead)) == 2


def test_a_source_that_will_not_close_is_reported() -> None:
    class Stubborn(Numbers):
        def close(self) -> None:
            pass

    numbers = Stubborn(9, blocks_at=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stillframe.pipeline.media.prefetch.CLOSE_TIMEOUT_S", 0.1)
        ahead = Prefetcher(numbers, 1)
        with pytest.raises(SourceError, match=r"did not stop reading within 0\.1 s"), ahead:
            pass
    numbers.closed.set()
    ahead.close()
