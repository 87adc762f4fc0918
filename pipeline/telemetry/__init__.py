"""What a run took and saved, counted frame by frame and exported."""
