"""The run directory: its files, its lock, and whether a run can be resumed in it."""
