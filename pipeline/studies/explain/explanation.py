"""What is known of a model once it was explained: one Row a layer, and totals."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from stillframe.pipeline.studies.explain.heatmap import Heatmap
from stillframe.reuse.introspection import MemoryReport

Gate = Literal["adaptive", "exact"]


@dataclass(frozen=True, slots=True)
class Row:
    """One instruction of the plan, or one island."""

    name: str
    operator: str
    """The engine's name, "Island", or "Export" (a copy for an island or the caller)."""
    shape: tuple[int, ...]
    """(H, W, C); of an island its first output's own."""
    multiply_adds: int
    """0 where an operator has none or, of islands, nobody knows."""
    dense_ms: float
    """Median of computing all of it."""
    active: float | None = None
    """Share of the positions computed, mean over the frames after the first; of an island the share
    of frames in which it ran. None without a clip."""
    changed: float | None = None
    """The same of the positions marked as changed."""
    reuse_ms: float | None = None
    """Median over the same frames."""
    persistent: bool | None = None
    """Whether the values survive to the next frame; None where the engine stores none."""
    why: str = ""
    """Why they do, or why they need not."""
    bytes: int = 0
    """What the values take; 0 for a view of another tensor."""
    last_reader: str = ""
    """The last layer that reads the values, in words."""
    cut_off: bool = False
    """Whether a result near what is stored is left unstored."""
    after_global: str = ""
    """The tensor of the first global operator that this depends on; empty if there is none."""
    reason: str = ""
    """Why an island is one."""
    nodes: tuple[str, ...] = ()
    """What an island holds."""
    algorithm: str = ""
    """How a convolution is computed, if not directly, or why it must be; else empty."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"behind" if k == "after_global" else k: v for k, v in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums and means over the frames after the first, which is computed whole.

    Without a clip all but multiply_adds, dense_ms and ort_ms are None or 0.
    """

    multiply_adds: int
    dense_ms: float
    """Median of a step that computes everything."""
    ort_ms: float | None = None
    """Median of ONNX Runtime, which computes everything; None: not measured."""
    reuse_ms: float | None = None
    """Median of a step of the clip."""
    reuse_mean_ms: float | None = None
    """Mean of the same."""
    gate_ms: float | None = None
    """Mean of finding what changed."""
    input: float | None = None
    """Share of the picture that was new."""
    work: float | None = None
    """Multiply-adds done, as a share of all."""
    frames: int = 0
    unchanged: int = 0
    """Frames with nothing to do."""
    dense: int = 0
    """Frames computed whole."""

    @property
    def fastest_ms(self) -> float:
        """Of what computes everything: our engine or ONNX Runtime."""
        return self.dense_ms if self.ort_ms is None else min(self.dense_ms, self.ort_ms)


@dataclass(frozen=True, slots=True)
class Explanation:
    """A model, explained."""

    model: str
    size: tuple[int, int]
    """(H, W) of its input."""
    tolerance: float
    gate: Gate
    threads: int | None
    rows: tuple[Row, ...]
    """In the order in which layers run."""
    totals: Totals
    memory: MemoryReport
    notes: tuple[str, ...]
    """What was done to the model that its user should know."""
    all_island: bool = False
    """Whether the engine has next to nothing to compute."""
    heatmap: Heatmap | None = field(default=None, repr=False)
    """None unless asked for."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the heatmap left out."""
        return {
            "model": self.model,
            "size": list(self.size),
            "tolerance": self.tolerance,
            "gate": self.gate,
            "threads": self.threads,
            "totals": asdict(self.totals),
            "memory": asdict(self.memory),
            "notes": list(self.notes),
            "all_island": self.all_island,
            "rows": [row.to_dict() for row in self.rows],
        }
