"""Sweeps: grids and searches of runs, with a separate process for each run."""
