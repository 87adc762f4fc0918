"""The native kernels and the one place that compiles them."""
