"""A run that chooses its own settings, and holds the quality that was asked for."""
