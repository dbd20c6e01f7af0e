"""Progress of training: a bar on a terminal, plain lines elsewhere."""

import sys

from tqdm import tqdm

from lstm_jax.training.monitoring import console


class Progress:
    """Prints lines, beside a bar once :meth:`start` was called on a terminal.

    Args:
      steps: Number of steps of the run.
      silent: Prints nothing.
    """

    def __init__(self, steps: int, silent: bool = False):
        self.steps, self.silent = steps, silent
        self.bar: tqdm | None = None

    def start(self, done: int) -> None:
        """Shows the bar after ``done`` steps, which do not count for its rate."""
        if not self.silent and console.is_terminal():
            self.bar = tqdm(total=self.steps, initial=done, unit="step", dynamic_ncols=True)

    def say(self, line: str, color: str = "") -> None:
        """Prints a line, in a color on a terminal."""
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
