"""A profile of some steps, for xprof."""

from pathlib import Path

import jax


class Profiler:
    """Traces the device while it runs some steps.

    Args:
      steps: Numbers of the first and the last step, from 1. None traces nothing.
    """

    def __init__(self, steps: tuple[int, int] | None):
        self.steps, self.running = steps, False

    def before(self, first: int, n: int, folder: Path) -> None:
        """Starts the profile if it is wanted of one of the next steps.

        Args:
          first: Number of the next step.
          n: Number of steps that are dispatched together.
          folder: Where the profile is written; ``xprof --logdir FOLDER`` shows it.
        """
        if self.steps is None or self.running:
            return
        start, end = self.steps
        if first <= end and first + n > start:
            jax.profiler.start_trace(str(folder))
            self.running = True

    def after(self, step: int, results: object) -> None:
        """Ends the profile after its last step, for whose results it waits."""
        if self.steps is not None and step >= self.steps[1] and self.running:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Ends the profile if it is running."""
        if self.running:
            jax.profiler.stop_trace()
            self.running = False
            self.steps = None
