"""What each layer costs, how much of it is recomputed, and whether reuse pays."""
