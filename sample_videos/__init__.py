"""Clips to try things on: drawn ones with exact ground truth, and real ones."""
