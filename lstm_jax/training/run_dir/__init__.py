"""The run directory: its files, its lock, and the check that a run can be resumed."""

from lstm_jax.training.run_dir.directory import RunDir

__all__ = ["RunDir"]
