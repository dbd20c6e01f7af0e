"""A profile of some steps, for xprof."""

from pathlib import Path

import jax


class Profile:
    """Traces the device while it runs the steps from the first to the last, counted from 1.

    Args:
      steps: first and last, or None for no profile.
      folder: where it goes; ``xprof --logdir FOLDER`` shows it.
    """

    def __init__(self, steps: tuple[int, int] | None, folder: Path):
        self.steps, self.folder, self.running = steps, folder, False

    def before(self, step: int, n: int) -> None:
        """Before the n steps from ``step`` on are dispatched."""
        if self.steps is None or self.running:
            return
        first, last = self.steps
        if step <= last and step + n > first:
            jax.profiler.start_trace(str(self.folder))
            self.running = True

    def after(self, step: int, results: object) -> None:
        """After those up to ``step`` were dispatched; waits for what they give where it ends."""
        if self.steps is not None and step >= self.steps[1] and self.running:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Ends it, where it runs."""
        if self.running:
            jax.profiler.stop_trace()
            self.running = False
            self.steps = None
