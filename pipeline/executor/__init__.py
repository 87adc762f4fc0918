"""Runs stages in threads with queues between them, on chosen cores; knows no model and no video."""
