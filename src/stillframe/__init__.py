"""stillframe: run any ONNX model on a video and compute only what changed since the last frame.

    import stillframe

    for result in stillframe.stream("video.mp4", model="centerface"):
        print(result.evidence.provenance, len(result))

What is listed in `__all__` is the surface; everything else may change. Names are imported when they
are first used, so that `import stillframe` is quick.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

for _link in ("models", "pipeline", "reuse", "sample_videos"):
    if os.path.isfile(os.path.join(os.path.dirname(__file__), _link)):
        raise ImportError(
            f"src/stillframe/{_link} is a text file where a link to a folder was expected:"
            " this checkout turned links into text files;"
            " run: git config core.symlinks true && git checkout -- src/stillframe"
        )

# Public name -> the module that has it.
_HOMES = {
    "CertificateError": "stillframe.errors",
    "Classes": "stillframe.models.results",
    "CsvSink": "stillframe.pipeline.sinks.records",
    "Depth": "stillframe.models.results",
    "Detections": "stillframe.models.results",
    "Evidence": "stillframe.models.results",
    "Filter": "stillframe.pipeline.filter.filter",
    "Frame": "stillframe.pipeline.media.frame",
    "JsonlSink": "stillframe.pipeline.sinks.records",
    "Mask": "stillframe.models.results",
    "Model": "stillframe.models.model",
    "ModelError": "stillframe.errors",
    "MotSink": "stillframe.pipeline.sinks.records",
    "Picture": "stillframe.models.results",
    "Pipeline": "stillframe.pipeline.video_pipeline",
    "QualityError": "stillframe.errors",
    "Result": "stillframe.models.results",
    "ReuseSession": "stillframe.reuse.session",
    "SKIP": "stillframe.pipeline.executor.stage",
    "SinkError": "stillframe.errors",
    "Source": "stillframe.pipeline.media.source",
    "SourceError": "stillframe.errors",
    "SourceEvent": "stillframe.pipeline.media.source",
    "SourceInfo": "stillframe.pipeline.media.source",
    "SourceState": "stillframe.pipeline.media.source",
    "Stage": "stillframe.pipeline.executor.stage",
    "StageError": "stillframe.errors",
    "StillframeError": "stillframe.errors",
    "Tensors": "stillframe.models.results",
    "Tolerance": "stillframe.reuse.plan.tolerance",
    "UsageError": "stillframe.errors",
    "VideoSink": "stillframe.pipeline.sinks.video",
    "frames": "stillframe.pipeline.media.open_source",
    "load": "stillframe.models.zoo",
    "open_source": "stillframe.pipeline.media.open_source",
    "stream": "stillframe.pipeline.stream",
}

if TYPE_CHECKING:
    from stillframe.errors import (
        CertificateError,
        ModelError,
        QualityError,
        SinkError,
        SourceError,
        StageError,
        StillframeError,
        UsageError,
    )
    from stillframe.models.model import Model
    from stillframe.models.results import (
        Classes,
        Depth,
        Detections,
        Evidence,
        Mask,
        Picture,
        Result,
        Tensors,
    )
    from stillframe.models.zoo import load
    from stillframe.pipeline.executor.stage import SKIP, Stage
    from stillframe.pipeline.filter.filter import Filter
    from stillframe.pipeline.media.frame import Frame
    from stillframe.pipeline.media.open_source import frames, open_source
    from stillframe.pipeline.media.source import Source, SourceEvent, SourceInfo, SourceState
    from stillframe.pipeline.sinks.records import CsvSink, JsonlSink, MotSink
    from stillframe.pipeline.sinks.video import VideoSink
    from stillframe.pipeline.stream import stream
    from stillframe.pipeline.video_pipeline import Pipeline
    from stillframe.reuse.plan.tolerance import Tolerance
    from stillframe.reuse.session import ReuseSession

__all__ = [
    "SKIP",
    "CertificateError",
    "Classes",
    "CsvSink",
    "Depth",
    "Detections",
    "Evidence",
    "Filter",
    "Frame",
    "JsonlSink",
    "Mask",
    "Model",
    "ModelError",
    "MotSink",
    "Picture",
    "Pipeline",
    "QualityError",
    "Result",
    "ReuseSession",
    "SinkError",
    "Source",
    "SourceError",
    "SourceEvent",
    "SourceInfo",
    "SourceState",
    "Stage",
    "StageError",
    "StillframeError",
    "Tensors",
    "Tolerance",
    "UsageError",
    "VideoSink",
    "__version__",
    "frames",
    "load",
    "open_source",
    "stream",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'stillframe' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
