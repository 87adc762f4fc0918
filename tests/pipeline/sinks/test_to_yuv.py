"""RGB to the planes of a video: exact colours, memory that encoders may refer to."""

from fractions import Fraction

import av
import av.filter
import numpy as np
import pytest

from stillframe.pipeline.sinks.to_yuv import YuvConverter


@pytest.mark.parametrize(("height", "width"), [(2, 2), (64, 96), (54, 130), (994, 1768)])
def test_planes_are_those_of_bt709(height: int, width: int) -> None:
    """Against the standard's formula, in double precision."""
    picture = np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)
    planes = YuvConverter(width, height).convert(picture).to_ndarray().ravel()
    red, green, blue = np.moveaxis(picture.astype(float), -1, 0) / 255
    light = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    chroma = np.stack([(blue - light) / 1.8556, (red - light) / 1.5748])
    chroma = chroma.reshape(2, height // 2, 2, width // 2, 2).mean((2, 4))
    expected = np.concatenate([(16 + 219 * light).ravel(), (128 + 224 * chroma).ravel()])
    assert np.abs(planes - expected).max() < 1.01  # two roundings
    assert np.abs(planes - expected).mean() < 0.3


def test_a_frame_that_somebody_still_refers_to_is_not_written_over() -> None:
    """FFmpeg's "reverse" refers to all pictures until the end, as some encoders do to a few."""
    graph, converter, levels = av.filter.Graph(), YuvConverter(64, 48), [40, 90, 140, 240]
    source = graph.add_buffer(width=64, height=48, format="yuv420p", time_base=Fraction(1, 25))
    graph.link_nodes(source, graph.add("reverse"), graph.add("buffersink")).configure()
    for pts, level in enumerate(levels):
        frame = converter.convert(np.full((48, 64, 3), level, np.uint8))
        frame.pts = pts
        source.push(frame)
    source.push(None)
    shown = [graph.vpull().to_ndarray()[:48].mean() for _ in levels]
    assert shown == [round(16 + level * 219 / 255) for level in reversed(levels)]
