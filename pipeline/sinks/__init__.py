"""Writes results: lines of text, annotated video, a page in the browser."""
