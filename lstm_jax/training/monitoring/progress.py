"""Progress of training: a bar on a terminal, plain lines otherwise."""

import sys

from tqdm import tqdm

from lstm_jax.training.monitoring import console


class Progress:
    """Console output with a progress bar. The bar appears after :meth:`start`, on a terminal.

    Args:
      steps: Total number of steps.
      silent: Whether to print nothing.
    """

    def __init__(self, steps: int, silent: bool = False):
        self.steps, self.silent = steps, silent
        self.bar: tqdm | None = None

    def start(self, done: int) -> None:
        """Shows the bar. ``done`` is the number of completed steps; they do not count for the rate."""
        if not self.silent and console.is_terminal():
            self.bar = tqdm(total=self.steps, initial=done, unit="step", dynamic_ncols=True)

    def say(self, line: str, color: str = "") -> None:
        """Prints a line above the bar. The color applies on a terminal."""
        if self.silent:
            return
        line = console.paint(line, color)
        if self.bar is None:
            console.say(line)
        else:
            with tqdm.external_write_mode(file=sys.stdout):
                console.say(line)

    def move(self, step: int) -> None:
        """Moves the bar to a step."""
        if self.bar is not None and step > self.bar.n:
            self.bar.update(step - self.bar.n)

    def close(self) -> None:
        """Ends the bar."""
        if self.bar is not None:
            self.bar.close()
