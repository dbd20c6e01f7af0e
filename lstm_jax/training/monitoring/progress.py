"""Progress of training: a bar on a terminal, plain lines elsewhere."""

import sys

from tqdm import tqdm

from lstm_jax.training.metrics import METRICS
from lstm_jax.training.monitoring import console as output


class Progress:
    """Shows how far training is."""

    def __init__(self, steps: int, silent: bool = False):
        self.silent = silent
        self.bar = tqdm(total=steps, unit="step", disable=silent or not output.is_terminal())

    def begin(self, done: int) -> None:
        """Starts the bar after ``done`` steps, which do not count for its rate."""
        self.bar.initial = self.bar.n = self.bar.last_print_n = done
        self.bar.unpause()

    def say(self, line: str) -> None:
        """Prints a line."""
        if self.silent:
            return
        if self.bar.disable:
            output.say(line)
        else:
            with tqdm.external_write_mode(file=sys.stdout):
                output.say(line)

    def step(
        self, done: int, figures: dict[str, float], figure: str, speed: float, left: str
    ) -> None:
        """Shows metrics after ``done`` steps, means over the steps since the last line."""
        parts = []
        if figure not in ("mse", "nats"):  # which are the loss
            parts.append(f"loss {figures['train/loss']:.4f}")
        if f"train/{figure}" in figures:
            parts.append(f"{METRICS[figure][0]} {figures[f'train/{figure}']:.4f}")
        parts.append(f"gradient norm {figures['train/gradient_norm']:.2f}")
        shown = "  ".join(parts)
        if self.silent:
            return
        if self.bar.disable:
            time = f"  {speed:,.0f} tokens a second, {left} left" if left else ""
            output.say(f"step {done:>7,}  {shown}{time}")
        else:
            self.bar.update(done - self.bar.n)
            rate = f"  {speed:,.0f} tokens/s" if speed else ""
            self.bar.set_postfix_str(shown + rate)

    def close(self) -> None:
        """Ends the bar."""
        self.bar.close()
