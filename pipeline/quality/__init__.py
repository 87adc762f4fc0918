"""How well results agree with computing everything: over a clip, and during a run."""
