"""The version of the networks that are built here; a module of its own, since it loads nothing."""

VERSION = 3
"""Part of the file names in the cache: raise it when the weights or layers change."""
