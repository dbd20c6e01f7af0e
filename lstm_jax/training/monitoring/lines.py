"""Formatting of console output."""

from collections.abc import Mapping

from lstm_jax.training.metrics import METRICS

IS_LOSS = ("mse", "nats")
"""Metrics that are equal to the loss."""


def position(step: int, steps: int) -> str:
    """Formats the current and the total number of steps, right-aligned.

    >>> position(200, 2400)
    'step   200/2,400'
    """
    return f"step {step:>{len(f'{steps:,}')},}/{steps:,}"


def values(
    metrics: Mapping[str, float],
    metric: str,
    split: str,
    baselines: Mapping[str, float] | None = None,
) -> str:
    """Formats the loss and the metrics of a split, with the baselines of the main metric.

    Args:
      metrics: Metrics by name, ``split/...``.
      metric: Name of the main metric.
      split: train, eval or test.
      baselines: Values of the main metric for predictors without a network, by name.

    >>> metrics = {"eval/loss": 0.1133, "eval/accuracy": 0.966}
    >>> values(metrics, "accuracy", "eval", {"majority baseline": 0.27})
    'loss 0.1133  accuracy 0.9660 (majority baseline 0.2700)'
    """
    parts = [] if metric in IS_LOSS else [f"loss {metrics[f'{split}/loss']:.4f}"]
    known = ", ".join(f"{name} {value:.4f}" for name, value in (baselines or {}).items())
    value = f"{METRICS[metric].label} {metrics[f'{split}/{metric}']:.4f}"
    parts.append(f"{value} ({known})" if known else value)
    if metric != "accuracy" and f"{split}/accuracy" in metrics:
        parts.append(f"accuracy {metrics[f'{split}/accuracy']:.4f}")
    return "  ".join(parts)


def speed(tokens_per_second: float) -> str:
    """Formats tokens per second with three significant digits.

    >>> speed(251_668.0), speed(1_723_000.0), speed(87.4)
    ('252k tokens/s', '1.72M tokens/s', '87.4 tokens/s')
    """
    for factor, unit in ((1e6, "M"), (1e3, "k")):
        if tokens_per_second >= 0.9995 * factor:
            return f"{_three_digits(tokens_per_second / factor)}{unit} tokens/s"
    return f"{_three_digits(tokens_per_second)} tokens/s"


def _three_digits(number: float) -> str:
    digits = 2 if number < 9.995 else 1 if number < 99.95 else 0
    return f"{number:.{digits}f}"
