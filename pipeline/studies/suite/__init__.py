"""What a run gives a stranger: every model on every clip that it makes sense on, no options."""
