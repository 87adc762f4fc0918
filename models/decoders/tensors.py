"""Decoder of last resort: the outputs as they are, under their names."""

from dataclasses import dataclass

from stillframe.errors import ModelError
from stillframe.models.model import Form, Outputs, View
from stillframe.models.results import Tensors


@dataclass(frozen=True, slots=True)
class Named:
    """names: of the outputs, in the graph's order."""

    names: tuple[str, ...]

    def __call__(self, outputs: Outputs, view: View, form: Form) -> Tensors:
        if len(outputs) != len(self.names):
            raise ModelError(f"tensors: expected {len(self.names)} outputs, got {len(outputs)}")
        copies = [output.copy() for output in outputs]  # an engine may reuse its memory
        return Tensors(dict(zip(self.names, copies, strict=True)))
