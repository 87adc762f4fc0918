"""optimize(): the order of all passes, run until none has anything left to do."""

from stillframe.reuse import folding, fusion, spelling, tidying
from stillframe.reuse.graph import Graph
from stillframe.reuse.rewriting import Pass

PASSES: tuple[Pass, ...] = (
    tidying.compute_constants,  # leaves only nodes that depend on the frame
    tidying.drop_copies,  # first of all, so that the others see who really reads what
    tidying.simplify_pools,
    tidying.merge_slices,  # needs copies gone; leaves Focus as four slices of one tensor
    tidying.merge_concats,
    tidying.focus_to_depth,  # needs merged slices
    tidying.bounds_to_clip,
    tidying.merge_clips,
    tidying.simplify_acts,
    folding.pad_into_kernel,
    folding.constants_to_affine,  # leaves scaling and shifting by channel in one form
    folding.merge_affines,  # needs that one form
    spelling.spelled_products,  # needs merged affines between the activation and its input
    spelling.spelled_clips,
    spelling.gate_with_skip,
    folding.affine_before_moves,  # brings an affine next to the Conv it came from
    folding.affine_into_conv,  # needs every spelt-out activation recognised: they hold affines
    folding.affine_out_of_conv,
    folding.join_convs,  # needs the affines between two Convs folded
    fusion.act_before_moves,
    fusion.act_into_producer,  # needs Conv -> Unary side by side: no affine between them
    fusion.split_groups,  # with its act, before residuals, which parts cannot take
    fusion.add_into_conv,  # needs the act of the Add fused, to know which comes first
)

ROUNDS = 50
"""Far more than any graph takes; a rule that undoes another would go on for ever."""


def optimize(graph: Graph) -> Graph:
    """The graph rewritten for the engine; the same function up to float rounding."""
    for _ in range(ROUNDS):
        before = graph
        for each in PASSES:
            after = each(graph)
            if after is graph:
                continue
            try:
                graph = after.check()
            except ValueError as error:
                raise ValueError(f"pass {each.__name__} broke the graph: {error}") from error
        if graph is before:
            return graph
    raise ValueError(f"passes still find work after {ROUNDS} rounds")
