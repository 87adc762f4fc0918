"""The drawn clips: frame by frame from a seed, with exact ground truth."""
