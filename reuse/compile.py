"""The compiler: an ONNX model and the shapes of its inputs -> a Plan that the engine can run.

load_graph      ONNX file -> graph of the engine's operators and islands, optimised
compile_graph   graph -> memory plan -> tables
compile_model   both, with what was measured on this host in between
"""

from collections.abc import Callable, Collection
from pathlib import Path

from stillframe.reuse.disk_cache import DiskCache
from stillframe.reuse.frontend.import_model import import_model
from stillframe.reuse.frontend.model_errors import model_errors, model_title
from stillframe.reuse.frontend.model_limits import check_plan
from stillframe.reuse.frontend.onnx_loader import Shapes
from stillframe.reuse.ir.graph import Graph
from stillframe.reuse.memory.planner import plan_memory
from stillframe.reuse.passes.optimize import optimize
from stillframe.reuse.plan.build import build_plan, island_reads
from stillframe.reuse.plan.plan import Plan, Tuning
from stillframe.reuse.plan.winograd_choice import choose_winograd

UNMEASURED = Tuning()


def compile_model(
    source: str | Path | bytes,
    shapes: Shapes | None = None,
    workers: int = 1,
    *,
    exact: bool = True,
    memory_budget: int | None = None,
    states: Collection[str] = (),
    widened: bool = False,
    tune: Callable[[Graph], Tuning] = lambda _: UNMEASURED,
    disk_cache: DiskCache | None = None,
) -> Plan:
    """The plan of a model. tune: measures the graph's convolutions on this host; for the rest see
    `load_graph` and `compile_graph`."""
    with model_errors(model_title(source)):
        graph = choose_winograd(load_graph(source, shapes, widened=widened), exact)
        return compile_graph(
            graph,
            workers,
            exact=exact,
            memory_budget=memory_budget,
            states=states,
            tuning=tune(graph),
            disk_cache=disk_cache,
        )


def load_graph(
    source: str | Path | bytes, shapes: Shapes | None = None, *, widened: bool = False
) -> Graph:
    """The optimised graph of a model. shapes: input name -> shape, for inputs with open sizes.
    widened: a quantised model is computed in float32.

    Raises ModelError, with the node's name and operator, for a model that neither the engine nor
    ONNX Runtime can run.
    """
    with model_errors(model_title(source)):
        return optimize(import_model(source, shapes=shapes, widened=widened))


def compile_graph(
    graph: Graph,
    workers: int = 1,
    *,
    exact: bool = True,
    memory_budget: int | None = None,
    states: Collection[str] = (),
    tuning: Tuning = UNMEASURED,
    disk_cache: DiskCache | None = None,
) -> Plan:
    """The plan of a partitioned graph for so many workers.

    exact: a cut-off asks for equal bits; otherwise for a small distance, with thresholds of 0 until
    `Tolerance.apply` sets them. states: inputs that are cut off as well.
    memory_budget: bytes of activations, see `plan_memory`.
    disk_cache: where choices that take long are looked up and stored.
    """
    graph = choose_winograd(graph, exact)
    exported = frozenset(island_reads(graph))
    memory = plan_memory(graph, exported, memory_budget, disk_cache, states)
    check_plan(memory.size)
    return build_plan(graph, memory, exported, workers, exact, tuning, states)
