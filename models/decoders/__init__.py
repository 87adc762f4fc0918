"""Network outputs -> results in source pixels: one decoder per family of models."""
