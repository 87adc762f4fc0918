"""The graph between ONNX and the plan: operators, windows, and NumPy as their reference."""
