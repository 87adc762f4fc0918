"""Contenders on the same frames, side by side, answers checked first."""
