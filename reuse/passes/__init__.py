"""Rewriting rules from graph to graph, in the order in which they run."""
