"""From a network's outputs to results: one decoder for each family."""
