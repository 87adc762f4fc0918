"""screen: a recorded desktop; text scrolls, is typed and printed, windows move, then all is still.

A script of steps, drawn from the seed, decides everything that happens: while the state stays the
same, the image is the same array.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from stillframe.sample_videos.drawing import desktop, pages
from stillframe.sample_videos.drawing.canvas import overlap, place
from stillframe.sample_videos.drawing.desktop import WindowFrame
from stillframe.sample_videos.drawing.lettering import write
from stillframe.sample_videos.drawing.pages import Box, Page, Scale
from stillframe.sample_videos.drawing.prose import TYPED
from stillframe.sample_videos.drawing.texture import Cover, Picture
from stillframe.sample_videos.truth import Drawn, Thing

EDITOR, BROWSER, TERMINAL, DIALOG, POINTER = 1, 2, 3, 4, 5
TYPING_PER_S = 9.0
NOTCH = 54
"""Design units that one notch of the mouse wheel scrolls."""


@dataclass(frozen=True, slots=True)
class State:
    """Everything that can differ between two frames. Lengths in pixels."""

    pointer: tuple[int, int]
    code: int = 0
    """Scroll position of the editor."""
    article: int = 0
    """Scroll position of the browser."""
    printed: int = 9
    """Lines in the terminal."""
    browser: tuple[int, int] = (0, 0)
    """Offset of the window from its place."""
    typed: tuple[int, int] = (0, 0)
    """(index into prose.TYPED, letters of that line) typed in the editor."""
    dialog: bool = False
    minutes: int = 624
    """The clock, since midnight."""


@dataclass(frozen=True, slots=True)
class ScreenStep:
    """A change from one state to another: pointer and pages move smoothly, text appears."""

    start_s: float
    end_s: float
    before: State
    after: State

    def at(self, time_s: float) -> State:
        share = (time_s - self.start_s) / max(self.end_s - self.start_s, 1e-9)
        if share >= 1:
            return self.after
        ease = share * share * (3 - 2 * share)

        def between(first: int, second: int) -> int:
            return round(first + (second - first) * ease)

        def whole(first: int, second: int) -> int:
            return first + math.floor((second - first) * share)

        old, new = self.before, self.after
        return replace(
            new,
            pointer=(
                between(old.pointer[0], new.pointer[0]),
                between(old.pointer[1], new.pointer[1]),
            ),
            code=between(old.code, new.code),
            article=between(old.article, new.article),
            browser=(
                between(old.browser[0], new.browser[0]),
                between(old.browser[1], new.browser[1]),
            ),
            printed=whole(old.printed, new.printed),
            typed=(new.typed[0], whole(old.typed[1], new.typed[1])),
        )


class Screen:
    """The scene; the state is a pure function of time, the image of the state."""

    def __init__(self, width: int, height: int, random: np.random.Generator) -> None:
        self._scale = scale = Scale.of(width, height)
        self._paper = desktop.wallpaper(width, height, random)
        bar = scale.px(44)

        def box(left: float, top: float, right: float, bottom: float) -> Box:
            """From shares of the screen above the bar."""
            return (
                round(left * width), round(top * (height - bar)),
                round(right * width), round(bottom * (height - bar)),
            )  # fmt: skip

        self._editor = desktop.window(
            scale,
            box(0.02, 0.04, 0.60, 0.97),
            "filter.py - tracker",
            dark=True,
            sidebar=scale.px(150),
        )
        self._browser = desktop.window(
            scale, box(0.53, 0.08, 0.975, 0.70), "Why rivers meander", dark=False
        )
        terminal = box(0.50, 0.60, 0.94, 0.985)
        spare = (terminal[3] - terminal[1] - scale.px(desktop.TITLE)) % scale.px(
            pages.OUTPUT_LEADING
        )
        terminal = (*terminal[:3], terminal[3] - spare)  # whole lines only
        self._terminal = desktop.window(scale, terminal, "tracker - bash", dark=True)
        self._dialog = desktop.dialog(scale, (round(0.36 * width), round(0.42 * height)))
        self._code, self._leading, self._indent = pages.code_page(scale, _wide(self._editor))
        self._article = pages.article_page(scale, _wide(self._browser), random)
        self._output, self._row = pages.terminal_page(scale, _wide(self._terminal))
        self._pointer = desktop.pointer(scale)
        self._steps: list[ScreenStep] = []
        self._script = self._written(random.spawn(1)[0])
        self._shown: tuple[State | None, Drawn | None] = (None, None)

    def at(self, time_s: float) -> Drawn:
        """The image at a time; the very same object while nothing changes."""
        state = self._state(time_s)
        if self._shown[0] != state or self._shown[1] is None:
            self._shown = (state, self._draw(state))
        assert self._shown[1] is not None
        return self._shown[1]

    def _state(self, time_s: float) -> State:
        while not self._steps or self._steps[-1].end_s <= time_s:
            self._steps.append(next(self._script))
        step = next(step for step in reversed(self._steps) if step.start_s <= time_s)
        minutes = 624 + math.floor((time_s + 38) / 60)
        return replace(step.at(time_s), minutes=minutes)

    # --- the script

    def _written(self, random: np.random.Generator) -> Iterator[ScreenStep]:
        """Rests, moves of the pointer and actions, for ever."""
        scale = self._scale
        now = 0.0
        state = State(self._inside(self._editor, 0.5, 0.4))

        def go(seconds: float, after: State) -> ScreenStep:
            nonlocal now, state
            step = ScreenStep(now, now + seconds, state, after)
            now, state = step.end_s, after
            return step

        def move(to: tuple[int, int]) -> ScreenStep:
            return go(float(random.uniform(0.45, 0.85)), replace(state, pointer=to))

        def rest() -> ScreenStep:
            return go(float(random.uniform(0.9, 2.6)), state)

        yield go(1.2, state)
        while True:
            order = random.permutation(6)
            for action in order:
                if action == 0:  # read on in the article
                    yield move(self._inside(self._moved(state), 0.6, 0.5))
                    for _ in range(int(random.integers(3, 7))):
                        top = min(
                            state.article + scale.px(NOTCH * 2),
                            self._last(self._article, self._browser),
                        )
                        yield go(0.26, replace(state, article=top))
                        yield go(float(random.uniform(0.12, 0.5)), state)
                    if state.article > 0.8 * self._last(self._article, self._browser):
                        yield go(0.8, replace(state, article=0))
                elif action == 1:  # look through the code
                    yield move(self._inside(self._editor, 0.45, 0.6))
                    away = 1 if state.code < self._last(self._code, self._editor) / 2 else -1
                    for _ in range(int(random.integers(3, 8))):
                        yield go(
                            0.22, replace(state, code=max(state.code + away * scale.px(NOTCH), 0))
                        )
                        yield go(float(random.uniform(0.08, 0.4)), state)
                elif action == 2:  # type a line
                    yield move(self._inside(self._editor, 0.5, 0.3))
                    line = (state.typed[0] + 1) % len(TYPED)
                    yield go(0.3, replace(state, typed=(line, 0)))
                    length = len(TYPED[line])
                    yield go(length / TYPING_PER_S, replace(state, typed=(line, length)))
                elif action == 3:  # run a command
                    yield move(self._inside(self._terminal, 0.4, 0.8))
                    lines = int(random.integers(4, 9))
                    yield go(lines / 7.0, replace(state, printed=state.printed + lines))
                elif action == 4:  # drag the browser by its title bar
                    frame = self._moved(state)
                    handle = (frame.outer[0] + scale.px(170), frame.outer[1] + scale.px(15))
                    yield move(handle)
                    to = (
                        int(random.integers(-scale.px(60), scale.px(14))),
                        int(random.integers(-scale.px(30), scale.px(50))),
                    )
                    shift = (to[0] - state.browser[0], to[1] - state.browser[1])
                    dropped = (handle[0] + shift[0], handle[1] + shift[1])
                    yield go(0.9, replace(state, browser=to, pointer=dropped))
                else:  # a message comes up and is closed
                    yield go(float(random.uniform(0.8, 1.4)), replace(state, dialog=True))
                    outer = self._dialog.outer
                    yield move((outer[0] + scale.px(266), outer[1] + scale.px(121)))
                    yield go(0.25, state)
                    yield go(float(random.uniform(0.5, 1.0)), replace(state, dialog=False))
                yield rest()

    def _inside(self, frame: WindowFrame, across: float, down: float) -> tuple[int, int]:
        x0, y0, x1, y1 = frame.inner
        return round(x0 + across * (x1 - x0)), round(y0 + down * (y1 - y0))

    def _moved(self, state: State) -> WindowFrame:
        return self._browser.moved(*state.browser)

    def _last(self, page: Page, frame: WindowFrame) -> int:
        """The farthest that a page can be scrolled."""
        return max(int(page.picture.shape[0]) - (frame.inner[3] - frame.inner[1]), 0)

    # --- the picture

    def _draw(self, state: State) -> Drawn:
        picture = self._paper.copy()
        instances = np.zeros(picture.shape[:2], np.uint8)
        texts: list[tuple[int, Box]] = []
        clock = desktop.clock(picture, state.minutes)
        if clock is not None:
            texts.append((0, clock))
        browser = self._moved(state)
        rows = (self._terminal.inner[3] - self._terminal.inner[1]) // self._row
        first = (state.printed % (self._output.picture.shape[0] // self._row - rows)) * self._row
        code_top = min(state.code, self._last(self._code, self._editor))
        for identity, frame, page, top in (
            (EDITOR, self._editor, self._code, code_top),
            (BROWSER, browser, self._article, state.article),
            (TERMINAL, self._terminal, self._output, first),
        ):
            self._window(picture, instances, texts, identity, frame, page, top)
            if identity == EDITOR:
                self._type(picture, texts, state)
        if state.dialog:
            self._window(picture, instances, texts, DIALOG, self._dialog, None, 0)
        things = list(_windows(instances, (self._editor, browser, self._terminal, self._dialog)))
        things += _lines(instances, texts)
        x, y = state.pointer
        arrow = self._pointer.moved(x - 1, y - 1)
        place(picture, arrow, instances=instances, identity=POINTER)
        seen = np.argwhere(instances == POINTER)
        if len(seen):
            (y0, x0), (y1, x1) = seen.min(axis=0), seen.max(axis=0) + 1
            things.append(
                Thing(POINTER, "cursor", (float(x0), float(y0), float(x1), float(y1)), 1.0)
            )
        return Drawn(picture, instances, tuple(things))

    def _window(
        self, picture: Picture, instances: Cover, texts: list[tuple[int, Box]],
        identity: int, frame: WindowFrame, page: Page | None, top: int,
    ) -> None:  # fmt: skip
        desktop.shade(picture, frame.outer, self._scale)
        x0, y0 = frame.outer[:2]
        _paste(picture, frame.chrome, x0, y0)
        outer = overlap(picture.shape, x0, y0, frame.outer[2] - x0, frame.outer[3] - y0)
        if outer is not None:
            instances[outer[0]] = identity
        texts.extend((identity, _shifted(line, x0, y0)) for line in frame.lines)
        if page is None:
            return
        left, upper, right, lower = frame.inner
        part = page.picture[top : top + lower - upper, : right - left]
        _paste(picture, part, left, upper)
        for line in page.lines:
            if line[1] >= top and line[3] <= top + lower - upper and line[0] < right - left:
                clipped = (line[0], line[1], min(line[2], right - left), line[3])
                texts.append((identity, _shifted(clipped, left, upper - top)))

    def _type(self, picture: Picture, texts: list[tuple[int, Box]], state: State) -> None:
        """The line being typed, in a bar at the foot of the editor, with its caret."""
        left, _, right, lower = self._editor.inner
        high = self._leading + self._scale.px(12)
        bar = picture[lower - high : lower, left:right]
        bar[:] = (40, 45, 55)
        bar[:1] = (70, 78, 94)
        size = self._scale.letters(13)
        base = self._scale.px(6) + round(self._leading * 0.74)
        write(bar, ">", (self._scale.px(18), base), size, (120, 206, 150), 700)
        line, letters = state.typed
        box = pages.coloured(bar, TYPED[line], (self._indent, base), size, upto=letters)
        caret = self._indent
        if box is not None:
            texts.append((EDITOR, _shifted(box, left, lower - high)))
            caret = box[2] + 1
        bar[self._scale.px(7) : high - self._scale.px(6), caret : caret + self._scale.px(1.6)] = (
            230,
            230,
            236,
        )


def _wide(frame: WindowFrame) -> int:
    return frame.inner[2] - frame.inner[0]


def _paste(picture: Picture, part: Picture, left: int, top: int) -> None:
    parts = overlap(picture.shape, left, top, part.shape[1], part.shape[0])
    if parts is not None:
        picture[parts[0]] = part[parts[1]]


def _shifted(box: Box, across: int, down: int) -> Box:
    return box[0] + across, box[1] + down, box[2] + across, box[3] + down


def _windows(instances: Cover, frames: tuple[WindowFrame, ...]) -> Iterator[Thing]:
    for identity, frame in enumerate(frames, start=EDITOR):
        x0, y0, x1, y1 = frame.outer
        parts = overlap(instances.shape, x0, y0, x1 - x0, y1 - y0)
        if parts is None:
            continue
        seen = np.argwhere(instances[parts[0]] == identity)
        if len(seen):
            top, left = parts[0][0].start, parts[0][1].start
            (r0, c0), (r1, c1) = seen.min(axis=0), seen.max(axis=0) + 1
            box = (float(left + c0), float(top + r0), float(left + c1), float(top + r1))
            yield Thing(identity, "window", box, len(seen) / ((x1 - x0) * (y1 - y0)))


def _lines(instances: Cover, texts: list[tuple[int, Box]]) -> list[Thing]:
    """The lines of text that no window hides, at least in part."""
    lines = []
    for identity, box in texts:
        parts = overlap(instances.shape, box[0], box[1], box[2] - box[0], box[3] - box[1])
        if parts is None:
            continue
        columns = (instances[parts[0]] == identity).all(axis=0)
        share = float(columns.mean())
        if share > 0.2:
            left = parts[0][1].start
            shown = np.flatnonzero(columns)
            edges = (
                float(left + shown[0]),
                float(box[1]),
                float(left + shown[-1] + 1),
                float(box[3]),
            )
            lines.append(Thing(identity, "text", edges, share))
    return lines
