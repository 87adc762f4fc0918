"""Which field of an interlaced picture comes first: read and marked by FFmpeg's filters, since PyAV
itself tells only that a picture is interlaced."""

from typing import Any

import av
import av.filter

# The interlace marks of y4m that say so -> FFmpeg's word.
FIRST_FIELD = {"t": "tff", "b": "bff"}
PROGRESSIVE = "p"
BOTTOM_ONLY = "eq(interlace_type,BOTTOMFIRST)"


def interlace_flag(picture: av.VideoFrame) -> str:
    """The mark of y4m for a decoded picture."""
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
    """Marks pictures of one size and layout as interlaced. first: a word of FIRST_FIELD."""

    def __init__(self, first: str) -> None:
        self._first = first
        self._graph: Any = None

    def __call__(self, picture: av.VideoFrame) -> Any:
        """The same picture with the mark."""
        if self._graph is None:
            self._graph = _graph(picture, "setfield", self._first)
        self._graph.push(picture)
        return self._graph.pull()


def _graph(picture: av.VideoFrame, name: str, arguments: str) -> Any:
    """A source for such pictures, one filter, and a sink."""
    graph: Any = av.filter.Graph()
    given = graph.add_buffer(
        width=picture.width,
        height=picture.height,
        format=picture.format,
        time_base=picture.time_base,
    )
    work, taken = graph.add(name, arguments.replace(",", "\\,")), graph.add("buffersink")
    given.link_to(work)
    work.link_to(taken)
    graph.configure()
    return graph
