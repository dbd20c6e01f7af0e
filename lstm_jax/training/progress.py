"""What a person sees while it trains: a bar on a terminal, plain lines elsewhere."""

import sys

from tqdm import tqdm

from lstm_jax.training.metrics import FIGURES


class Progress:
    """Says how far training is."""

    def __init__(self, steps: int, silent: bool = False):
        self.silent = silent
        self.bar = tqdm(total=steps, unit="step", disable=silent or not sys.stdout.isatty())

    def begin(self, done: int) -> None:
        """Starts the bar after ``done`` steps, which do not count for its rate."""
        self.bar.initial = self.bar.n = self.bar.last_print_n = done
        self.bar.unpause()

    def say(self, line: str) -> None:
        """A line of its own."""
        if self.silent:
            return
        if self.bar.disable:
            print(line, flush=True)
        else:
            self.bar.write(line)

    def step(
        self, done: int, figures: dict[str, float], figure: str, speed: float, left: str
    ) -> None:
        """After ``done`` steps: figures over the steps since the last line."""
        parts = []
        if figure not in ("mse", "nats"):  # which are the loss
            parts.append(f"loss {figures['train/loss']:.4f}")
        if f"train/{figure}" in figures:
            parts.append(f"{FIGURES[figure][0]} {figures[f'train/{figure}']:.4f}")
        parts.append(f"gradient norm {figures['train/gradient_norm']:.2f}")
        shown = "  ".join(parts)
        if self.silent:
            return
        if self.bar.disable:
            time = f"  {speed:,.0f} tokens a second, {left} left" if left else ""
            print(f"step {done:>7,}  {shown}{time}", flush=True)
        else:
            self.bar.update(done - self.bar.n)
            rate = f"  {speed:,.0f} tokens/s" if speed else ""
            self.bar.set_postfix_str(shown + rate)

    def close(self) -> None:
        """Ends the bar."""
        self.bar.close()
