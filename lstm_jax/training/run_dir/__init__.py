"""The run directory: its files, its lock, and whether a run can be resumed in it."""

from lstm_jax.training.run_dir.directory import RunDir

__all__ = ["RunDir"]
