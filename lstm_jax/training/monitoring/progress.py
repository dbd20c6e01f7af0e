"""Progress of training: a bar on a terminal, plain lines elsewhere."""

import sys

from tqdm import tqdm

from lstm_jax.training.metrics import METRICS
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
            self.bar = tqdm(total=self.steps, initial=done, unit="step")

    def say(self, line: str) -> None:
        """Prints a line."""
        if self.silent:
            return
        if self.bar is None:
            console.say(line)
        else:
            with tqdm.external_write_mode(file=sys.stdout):
                console.say(line)

    def step(
        self, step: int, metrics: dict[str, float], metric: str, speed: float, left: str
    ) -> None:
        """Shows metrics after ``step`` steps.

        Args:
          step: Number of steps done.
          metrics: Means over the steps since the last line.
          metric: The metric of the dataset.
          speed: Tokens per second; 0 if unknown.
          left: The time left; empty if unknown.
        """
        if self.silent:
            return
        parts = []
        if metric not in ("mse", "nats"):  # these are the loss
            parts.append(f"loss {metrics['train/loss']:.4f}")
        if f"train/{metric}" in metrics:
            parts.append(f"{METRICS[metric].unit} {metrics[f'train/{metric}']:.4f}")
        parts.append(f"gradient norm {metrics['train/gradient_norm']:.2f}")
        shown = "  ".join(parts)
        if self.bar is None:
            time = f"  {speed:,.0f} tokens a second, {left} left" if left else ""
            console.say(f"step {step:>7,}  {shown}{time}")
        else:
            self.bar.update(step - self.bar.n)
            rate = f"  {speed:,.0f} tokens/s" if speed else ""
            self.bar.set_postfix_str(shown + rate)

    def close(self) -> None:
        """Ends the bar."""
        if self.bar is not None:
            self.bar.close()
