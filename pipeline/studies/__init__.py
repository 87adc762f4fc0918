"""Measurements on the user's own clips: bench, sweep, tune and explain."""
