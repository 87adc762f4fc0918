"""optimize(): all passes in their order, repeated until none changes the graph."""

from stillframe.reuse.ir.graph import Graph
from stillframe.reuse.passes import canonicalize, fold, fuse, recognize_activations
from stillframe.reuse.passes.rewriter import Pass

PASSES: tuple[Pass, ...] = (
    canonicalize.compute_constants,  # leaves only nodes that depend on the frame
    canonicalize.drop_copies,  # before all others, so that they see the true readers
    canonicalize.simplify_pools,
    canonicalize.merge_slices,  # needs copies gone; leaves Focus as four slices of one tensor
    canonicalize.merge_concats,
    canonicalize.focus_to_depth,  # needs merged slices
    canonicalize.min_max_to_clip,
    canonicalize.merge_clips,
    canonicalize.simplify_acts,
    fold.pad_into_kernel,
    fold.constants_to_affine,  # leaves scaling and shifting by channel in one form
    fold.merge_affines,  # needs that one form
    recognize_activations.recognize_gated,  # needs merged affines before its input
    recognize_activations.recognize_hardsigmoid,
    recognize_activations.merge_gated_skip,
    fold.scale_into_attention,
    fold.affine_before_move,  # brings an affine next to the Conv it came from
    fold.affine_into_previous_conv,  # needs activations recognised: expanded, they hold affines
    fold.affine_into_next_conv,
    fold.split_conv,  # before joining, which would multiply a selection with the weights
    fold.join_convs,  # needs the affines between two Convs folded
    fuse.act_before_move,
    fuse.act_into_producer,  # needs Conv -> Unary side by side: no affine between them
    fuse.split_groups,  # after its act, before residuals, which the parts cannot take
    fuse.add_into_conv,  # needs the act of the Add fused, to know which comes first
)

ROUNDS = 50
"""Far more than any graph takes; two rules that undo each other would never end."""


def optimize(graph: Graph) -> Graph:
    """The graph rewritten for the engine: the same function up to float rounding.

    Raises ValueError naming the pass if one breaks the graph.
    """
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
