"""From a graph and its memory plan to the tables that the kernels read."""
