"""From an ONNX file to a graph; the only folder that imports onnx."""
