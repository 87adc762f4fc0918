"""Reads and sets the field order of interlaced pictures through FFmpeg's filters.

PyAV itself exposes only whether a picture is interlaced.
"""

from typing import Any

import av
import av.filter

# interlace flag of y4m -> FFmpeg's name of the first field
FIRST_FIELD = {"t": "tff", "b": "bff"}
PROGRESSIVE = "p"
BOTTOM_ONLY = "eq(interlace_type,BOTTOMFIRST)"


def interlace_flag(picture: av.VideoFrame) -> str:
    """The interlace flag of y4m for a decoded picture."""
    if not picture.interlaced_frame:
        return PROGRESSIVE
    graph = _graph(picture, "select", BOTTOM_ONLY)
    graph.push(picture)
    graph.push(None)
    try:
        graph.pull()
    except (av.EOFError, av.BlockingIOError):
        return "t"
    return "b"


class FieldOrderSetter:
    """Flags pictures of one size and layout as interlaced. first: a value of FIRST_FIELD."""

    def __init__(self, first: str) -> None:
        self._first = first
        self._graph: Any = None

    def __call__(self, picture: av.VideoFrame) -> Any:
        """The same picture with the flag set."""
        if self._graph is None:
            self._graph = _graph(picture, "setfield", self._first)
        self._graph.push(picture)
        return self._graph.pull()


def _graph(picture: av.VideoFrame, name: str, arguments: str) -> Any:
    """A filter graph for such pictures: buffer, one filter, sink."""
    graph: Any = av.filter.Graph()
    buffer = graph.add_buffer(
        width=picture.width,
        height=picture.height,
        format=picture.format,
        time_base=picture.time_base,
    )
    step, sink = graph.add(name, arguments.replace(",", "\\,")), graph.add("buffersink")
    buffer.link_to(step)
    step.link_to(sink)
    graph.configure()
    return graph
