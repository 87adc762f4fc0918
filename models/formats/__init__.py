"""Other formats into ONNX, and ONNX files cleaned for every backend."""
