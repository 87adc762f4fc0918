"""Models: where their weights come from, what goes in, what comes out."""
