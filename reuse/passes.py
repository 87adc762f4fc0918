"""optimize(): rewrites a graph until nothing is left to do.

A rule looks at one node and gives what should stand in its place. A pass sweeps its rule over all
nodes; PASSES is the order, and each line says what it needs from the ones above.
"""

from collections.abc import Callable

from stillframe.reuse.graph import Graph

Pass = Callable[[Graph], Graph]

PASSES: tuple[Pass, ...] = ()


def optimize(graph: Graph) -> Graph:
    return graph
