"""The stream filter: reads pictures, applies an effect, writes them in the same format."""
