"""Graph -> graph: the rewriting rules of the optimiser and the order in which they run."""
