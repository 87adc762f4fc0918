"""Opens what a text names (file, camera, stream, pipe) and yields timed frames."""
