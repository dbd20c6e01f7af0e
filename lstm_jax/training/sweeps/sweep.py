"""Runs of an experiment with overrides: a directory for each run, and a table and a plot of all runs."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lstm_jax.training.config import ConfigError, Experiment, locate
from lstm_jax.training.config.overrides import apply, folder_name
from lstm_jax.training.metrics import METRICS
from lstm_jax.training.monitoring import console as output
from lstm_jax.training.monitoring.clock import duration
from lstm_jax.training.monitoring.plots import plot_sweep
from lstm_jax.training.run_dir import RunDir
from lstm_jax.training.sweeps.child import STATUS_BY_EXIT_CODE, Children

TABLE, PLOT = "sweep.md", "sweep.png"
PENDING = "pending"
"""Status of a run that was not started."""


@dataclasses.dataclass
class Run:
    """A run of a sweep.

    Attributes:
      run_dir: The run directory.
      experiment: The experiment. None if the overrides are invalid.
      status: Status in the table, such as "complete" or "failed".
      same_data: Whether the child process has verified the data, even if ``data.path`` differs.
    """

    run_dir: RunDir
    experiment: Experiment | None
    status: str = PENDING
    same_data: bool = False

    @property
    def name(self) -> str:
        """The name of the run directory, which lists the overrides."""
        return self.run_dir.path.name

    def result(self) -> dict[str, Any] | None:
        """Returns the content of ``result.json``. None if the run is incomplete."""
        if self.experiment is None:
            return None
        return self.run_dir.result(self.experiment, self.same_data)

    def loss(self) -> float:
        """Returns the validation loss of the best model. Infinity if the run is incomplete."""
        result = self.result()
        return result["metrics"]["eval/loss"] if result is not None else float("inf")


class Sweep:
    """The runs of a sweep or a search, in one directory.

    Args:
      base: The experiment without overrides.
      folder: The directory.

    Raises:
      ConfigError: If the directory has other files.
    """

    def __init__(self, base: Experiment, folder: Path):
        self.base, self.folder = base, folder
        self.runs: dict[str, Run] = {}
        if folder.is_dir() and any(folder.iterdir()) and not (folder / TABLE).exists():
            raise ConfigError(
                f"workdir must be an empty directory or the directory of a sweep, got {folder}; choose "
                "another directory with --workdir."
            )

    def add(self, overrides: Mapping[str, Any]) -> Run:
        """Adds a run with overrides, unless it exists, and returns it."""
        path = self.folder / folder_name(overrides)
        if path.name not in self.runs:
            run = Run(RunDir(path), None)
            try:
                run.experiment = locate(apply(self.base, {**overrides, "workdir": path}))
            except ConfigError as error:
                output.say(f"{path.name}: {error}")
                run.status = "cannot be run"
            if run.result() is not None:
                run.status = "complete"
            self.runs[path.name] = run
        return self.runs[path.name]

    def run(self, run: Run, children: Children) -> None:
        """Trains a run unless it is complete, and updates the table and the plot."""
        if run.experiment is not None and run.status != "complete":
            number = list(self.runs).index(run.name) + 1
            output.say(f"\n=== run {number}: {run.name}")
            status = children.run(run.experiment)
            run.same_data = status == STATUS_BY_EXIT_CODE[0]
            run.status = "complete" if run.result() is not None else status
        self.write()

    def run_all(self, children: Children) -> None:
        """Trains all runs, one at a time."""
        self.print_counts(len(self.runs))
        self.write()  # the table marks the directory as a sweep, so it is written before the first run
        for run in self.runs.values():
            if not children.stopped:
                self.run(run, children)

    def print_counts(self, runs: int) -> None:
        """Prints the number of complete and of remaining runs.

        Args:
          runs: The total number of runs.
        """
        complete = [run.status for run in self.runs.values()].count("complete")
        remaining = max(runs - complete, 0)
        output.say(
            f"{runs} run{'s'[: runs != 1]}, {complete} complete, {remaining} remaining; {self.folder}"
        )

    def report(self, stopped: bool) -> int:
        """Prints the table. Returns the exit code: 1 if a run failed, else 0."""
        output.say(f"\n{self.table()}\n\n{self.folder / TABLE}, {self.folder / PLOT}")
        failed = [run for run in self.runs.values() if run.status not in ("complete", PENDING)]
        if stopped:
            output.say("Stopped. Run the same command to resume.")
        return int(bool(failed) and not stopped)

    def write(self) -> None:
        """Writes the table and the plot.

        Raises:
          ConfigError: If the directory cannot be created.
          RunError: If the files cannot be written.
        """
        text = f"# Sweep of {self.base.name}\n\n{self.table()}\n\n![]({PLOT})\n"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"workdir: cannot write {self.folder}: {error.strerror}.") from error
        RunDir(self.folder).replace(TABLE, text)
        if self.runs:
            self.plot()

    def table(self) -> str:
        """Returns a Markdown table of all runs, with the best run marked."""
        results = {name: run.result() for name, run in self.runs.items()}
        units = sorted({METRICS[r["metric"]].unit for r in results.values() if r is not None})
        unit = " or ".join(units) or "metric"
        best = self.best()
        rows = [["run", "best step", "validation loss", unit, f"test: {unit}", "time", "status"]]
        for name, run in self.runs.items():
            mark = ", **best**" if run is best else ""
            rows.append([name, *_cells(results[name]), run.status + mark])
        return _markdown(rows)

    def best(self) -> Run | None:
        """Returns the complete run with the lowest validation loss."""
        complete = [run for run in self.runs.values() if run.result() is not None]
        return min(complete, key=Run.loss, default=None)

    def plot(self) -> None:
        """Writes ``sweep.png``, the validation curves of all runs."""
        runs = sorted(self.runs.values(), key=Run.loss)
        result = runs[0].result() if runs else None
        metric = result["metric"] if result is not None else "loss"
        curves = []
        for run in runs:
            lines = [line for line in run.run_dir.metrics() if f"eval/{metric}" in line]
            points = [(line["step"], line[f"eval/{metric}"]) for line in lines]
            label = run.name if run.status == "complete" else f"{run.name} ({run.status})"
            curves.append((label, points, run.result() is not None))
        unit = METRICS[metric].unit if metric in METRICS else metric
        RunDir(self.folder).replace(PLOT, plot_sweep(curves, f"validation: {unit}"))


def _cells(result: dict[str, Any] | None) -> list[str]:
    """Returns the cells best step, loss, metric, test metric and time. Empty if the run is incomplete."""
    if result is None:
        return [""] * 5
    metrics, metric = result["metrics"], result["metric"]
    test = metrics.get(f"test/{metric}")
    return [
        f"{result['step']:,}",
        f"{metrics['eval/loss']:.4f}",
        f"{metrics[f'eval/{metric}']:.4f}",
        "" if test is None else f"{test:.4f}",
        duration(result["seconds"]),
    ]


def _markdown(rows: list[list[str]]) -> str:
    """Formats a table with aligned columns. Empty columns are omitted.

    >>> print(_markdown([["a", "b", "c"], ["1", "", "22"]]))
    | a | c  |
    | - | -- |
    | 1 | 22 |
    """
    columns = [column for column in zip(*rows, strict=True) if any(column[1:]) or len(column) == 1]
    widths = [max(map(len, column)) for column in columns]
    padded = [[c.ljust(w) for c in column] for column, w in zip(columns, widths, strict=True)]
    head, *body = (f"| {' | '.join(row)} |" for row in zip(*padded, strict=True))
    return "\n".join([head, f"| {' | '.join('-' * w for w in widths)} |", *body])
