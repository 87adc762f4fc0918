"""How well results agree with those of computing everything, offline and during a run."""
