"""The words that the windows of `screen` show: some code, an article, the output of commands."""

CODE = '''\
"""Track moving things across frames with a constant-velocity filter."""

from dataclasses import dataclass, field

import numpy as np

GATE = 0.35  # smallest overlap that counts as the same thing
PATIENCE = 12  # frames a track may stay unseen


@dataclass
class Track:
    """One thing that was seen more than once."""

    identity: int
    box: np.ndarray
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(4))
    unseen: int = 0

    def predict(self) -> np.ndarray:
        return self.box + self.velocity

    def update(self, box: np.ndarray, blend: float = 0.6) -> None:
        step = box - self.box
        self.velocity = blend * self.velocity + (1 - blend) * step
        self.box = box
        self.unseen = 0


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    left, top = np.maximum(first[:2], second[:2])
    right, bottom = np.minimum(first[2:], second[2:])
    inner = max(right - left, 0.0) * max(bottom - top, 0.0)
    outer = area(first) + area(second) - inner
    return inner / outer if outer > 0 else 0.0


def area(box: np.ndarray) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


class Tracker:
    """Gives each detection the identity of the track it fits."""

    def __init__(self) -> None:
        self.tracks: list[Track] = []
        self.next_identity = 1

    def step(self, boxes: np.ndarray) -> list[int]:
        free = list(range(len(boxes)))
        for track in sorted(self.tracks, key=lambda t: t.unseen):
            expected = track.predict()
            scores = [(overlap(expected, boxes[i]), i) for i in free]
            best = max(scores, default=(0.0, -1))
            if best[0] >= GATE:
                track.update(boxes[best[1]])
                free.remove(best[1])
            else:
                track.unseen += 1
        for index in free:
            self.tracks.append(Track(self.next_identity, boxes[index]))
            self.next_identity += 1
        self.tracks = [t for t in self.tracks if t.unseen < PATIENCE]
        return [t.identity for t in self.tracks if t.unseen == 0]


def replay(path: str, tracker: Tracker) -> dict[int, int]:
    """Count in how many frames each identity was seen."""
    seen: dict[int, int] = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            boxes = np.array([float(n) for n in line.split()]).reshape(-1, 4)
            for identity in tracker.step(boxes):
                seen[identity] = seen.get(identity, 0) + 1
    return seen
'''

TYPED = (
    "limit = max(overlap(a, b) for a, b in pairs)",
    'print(f"kept {len(tracks)} of {total} tracks")',
    "boxes = boxes[np.argsort(-scores)][:100]",
    "assert np.isfinite(box).all(), box  # no NaN here",
    "history.append((time.monotonic(), len(free)))",
)

HEADLINE = "Why rivers meander"
ARTICLE = (
    "Look at a river on a plain from the air and you will hardly find a straight stretch. The "
    "bends are not the work of obstacles: they grow by themselves, and they grow according to "
    "rules that hold from a rivulet on a car window to the Mississippi.",
    "Water in a bend is pressed outwards. At the surface it moves fast and drifts to the outer "
    "bank; along the bed, where friction slows it, it creeps back to the inner one. The outer "
    "bank is eaten away, and what it loses settles as a sandbar on the inside of the next bend.",
    "# A wavelength of eleven widths",
    "Measure from one bend to the next and divide by the width of the channel. The answer is "
    "close to eleven, for streams that a child can jump as well as for rivers that carry ships. "
    "Luna Leopold, who collected hundreds of such measurements in the 1950s, called it one of "
    "the most regular facts in an irregular landscape.",
    "The bend grows until its neck is so narrow that a flood cuts through. What remains is a "
    "lake in the shape of a horseshoe, and for a while a river that is a little shorter, a "
    "little steeper and in a little more of a hurry.",
    "# What the satellites see",
    "Thirty years of pictures show the Ucayali in Peru moving by more than thirty metres a "
    "year. Laid over each other, they make the valley look like a rope that somebody keeps "
    "shaking. The fastest bends are the ones that carry the most sediment, not the most water.",
    "Engineers who straightened rivers in the last century learnt the rule the hard way. A "
    "straight channel runs faster, digs deeper and takes its bridges with it. Many of them are "
    "being given their bends back, at some expense, by people who draw them eleven widths "
    "apart.",
    "# A walk along the bank",
    "The best place to watch is a small stream after heavy rain. Throw in a handful of leaves "
    "and see where they gather; dig your heel into the inner bank and note how soft it is. Come "
    "back in a year. The stream will not be where you left it.",
)

OUTPUT = tuple(
    """\
$ python -m pytest -q
collected 148 items

tests/test_boxes.py ..............  [  9%]
tests/test_filter.py ......................  [ 24%]
tests/test_replay.py ..........  [ 31%]
tests/test_tracker.py ..............................  [ 51%]
tests/test_metrics.py .................  [ 63%]
tests/test_export.py .............  [ 72%]
tests/test_cli.py ........................  [ 88%]
tests/test_docs.py .................  [100%]

148 passed in 6.42s
$ git status --short
 M tracker/filter.py
 M tests/test_filter.py
$ git commit -am "Keep velocity when unseen"
[main 4f1c2d9] Keep velocity when unseen
 2 files changed, 31 insertions(+), 9 deletions(-)
$ python replay.py street.txt
read 1795 frames
seen 61 identities, 4 switches
mean age 84.2 frames
wrote street.json
$ du -sh runs/*
1.2G    runs/evening
840M    runs/noon
96M     runs/rain
$ tail -3 runs/rain/log
12:04:11 frame 880 boxes 7
12:04:11 frame 881 boxes 7
12:04:12 frame 882 boxes 6
""".splitlines()
)

FILES = tuple(
    """\
tracker
  __init__.py
  boxes.py
  filter.py
  metrics.py
  replay.py
tests
  test_boxes.py
  test_filter.py
  test_replay.py
README.md
pyproject.toml
""".splitlines()
)
