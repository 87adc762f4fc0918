"""Figures of a run: counted frame by frame, and served to Prometheus."""
