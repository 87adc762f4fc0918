"""Which stage runs on which processor, decided by measuring before and during the run."""
