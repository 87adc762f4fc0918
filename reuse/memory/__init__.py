"""Which activations persist, where each lies, and what is recomputed instead of stored."""
