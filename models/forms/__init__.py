"""What the outputs of an unknown ONNX file mean, recognised from names, shapes and metadata."""
