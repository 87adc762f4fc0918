"""The reuse engine: knows tensors and masks; knows no video and prints nothing."""
