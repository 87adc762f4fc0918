"""stillframe: run any ONNX model on a video stream and compute only what changed."""

__version__ = "0.1.0"
