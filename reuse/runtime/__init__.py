"""Runs a plan: worker threads, islands, and what is measured once on each host."""
