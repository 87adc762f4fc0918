"""Decoder of models of unknown meaning: the outputs unchanged, under their names."""

from dataclasses import dataclass

from stillframe.errors import ModelError
from stillframe.models.model import Form, Outputs, View
from stillframe.models.results import Tensors


@dataclass(frozen=True, slots=True)
class TensorDecoder:
    """The outputs as Tensors."""

    names: tuple[str, ...]
    """Of the outputs, in the graph's order."""

    def __call__(self, outputs: Outputs, view: View, form: Form) -> Tensors:
        if len(outputs) != len(self.names):
            raise ModelError(f"tensors: expected {len(self.names)} outputs, got {len(outputs)}")
        copies = [output.copy() for output in outputs]  # a backend may reuse its buffers
        return Tensors(dict(zip(self.names, copies, strict=True)))
