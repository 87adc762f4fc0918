"""Mutated models, videos, streams, configurations and caches, run in processes that may die."""
