"""Profiling of a range of steps, for xprof."""

from pathlib import Path

import jax


class Profiler:
    """A profiler for a range of steps.

    Args:
      steps: First and last step to profile, from 1. None disables the profiler.
    """

    def __init__(self, steps: tuple[int, int] | None):
        self.steps, self.running = steps, False

    def before(self, first: int, n: int, folder: Path) -> None:
        """Starts the profile if the next steps include the first step to profile.

        Args:
          first: Number of the next step.
          n: Number of steps that are dispatched together.
          folder: Directory of the profile. ``xprof --logdir FOLDER`` shows it.
        """
        if self.steps is None or self.running:
            return
        start, end = self.steps
        if first <= end and first + n > start:
            jax.profiler.start_trace(str(folder))
            self.running = True

    def after(self, step: int, results: object) -> None:
        """Ends the profile after its last step. Waits for the results of the step."""
        if self.steps is not None and step >= self.steps[1] and self.running:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Ends the profile if it is running."""
        if self.running:
            jax.profiler.stop_trace()
            self.running = False
            self.steps = None
