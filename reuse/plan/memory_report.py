"""What a plan keeps in memory, beside what the obvious ways of keeping it would take."""

from dataclasses import dataclass

from stillframe.reuse.plan.plan import Plan


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """Bytes.

    persistent: activations that the next frame reads. transient: the arena that the others share;
    lower_bound: the least that any arena for them needs. weights: packed weights and tables.
    every_activation: what keeping the output of every layer would take. total: all of ours, for
    one shape of feeds; other_shapes: what a session keeps for others that it was fed.
    """

    persistent: int
    transient: int
    lower_bound: int
    weights: int
    every_activation: int
    total: int
    other_shapes: int = 0


def report(plan: Plan) -> MemoryReport:
    memory = plan.memory
    return MemoryReport(
        persistent=memory.persistent_bytes,
        transient=memory.arena_bytes,
        lower_bound=memory.lower_bound,
        weights=plan.weights_bytes,
        every_activation=memory.every_activation,
        total=memory.size + plan.weights_bytes + plan.masks.nbytes,
    )
