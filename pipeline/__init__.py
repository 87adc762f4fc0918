"""Frames in, results out: sources, stages, sinks and the command line."""
