"""Threads, queues and the cores they run on; knows no model and no video."""
