"""Many runs of an experiment with changes: each in its own folder, one table and one plot over all."""

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
from lstm_jax.training.sweeps.child import STATUS, Children

TABLE, PLOT = "sweep.md", "sweep.png"


@dataclasses.dataclass
class Run:
    """One run: its experiment (None if there can be none) and how far it is."""

    folder: RunDir
    experiment: Experiment | None
    status: str = "to go"
    same_data: bool = False
    """Whether its process has compared the data, which may have moved."""

    @property
    def name(self) -> str:
        """Its overrides."""
        return self.folder.path.name

    def result(self) -> dict[str, Any] | None:
        """Its final figures, if it is complete."""
        return (
            self.folder.result(self.experiment, self.same_data)
            if self.experiment is not None
            else None
        )

    def loss(self) -> float:
        """What runs are compared by, as evaluations are within a run; infinite if it is not complete."""
        result = self.result()
        return result["metrics"]["eval/loss"] if result is not None else float("inf")


class Sweep:
    """The runs in a folder.

    Raises:
      ConfigError: if the folder holds something else.
    """

    def __init__(self, base: Experiment, folder: Path):
        self.base, self.folder = base, folder
        self.runs: dict[str, Run] = {}
        if folder.is_dir() and any(folder.iterdir()) and not (folder / TABLE).exists():
            raise ConfigError(
                f"workdir: {folder} is not empty and holds no sweep; choose another with --workdir."
            )

    def add(self, overrides: Mapping[str, Any]) -> Run:
        """Takes in the run with these changes, once."""
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

    def go(self, run: Run, children: Children) -> None:
        """Runs what is not complete, and writes how all stand."""
        if run.experiment is not None and run.status != "complete":
            number = list(self.runs).index(run.name) + 1
            output.say(f"\n=== run {number}: {run.name}")
            ended = children.run(run.experiment)
            run.same_data = ended == STATUS[0]
            run.status = "complete" if run.result() is not None else ended
        self.write()

    def go_through(self, children: Children) -> None:
        """Runs all, one after the other."""
        self.say_how_many(len(self.runs))
        self.write()  # so that the folder is known as a sweep's before a run is in it
        for run in self.runs.values():
            if not children.stopped:
                self.go(run, children)

    def say_how_many(self, runs: int) -> None:
        """Of so many runs, how many are complete."""
        complete = [run.status for run in self.runs.values()].count("complete")
        to_go = max(runs - complete, 0)
        output.say(
            f"{runs} run{'s'[: runs != 1]}, {complete} complete, {to_go} to go; {self.folder}"
        )

    def report(self, stopped: bool) -> int:
        """Prints the table. The exit code is 1 if a run failed."""
        output.say(f"\n{self.table()}\n\n{self.folder / TABLE}, {self.folder / PLOT}")
        bad = [run for run in self.runs.values() if run.status not in ("complete", "to go")]
        if stopped:
            output.say("stopped; run the same command to resume")
        return int(bool(bad) and not stopped)

    def write(self) -> None:
        """The table and the plot as of now.

        Raises:
          ConfigError: if the directory cannot be created.
          RunError: if they cannot be written.
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
        """All runs in Markdown; the one of the least held-out loss is marked."""
        results = {name: run.result() for name, run in self.runs.items()}
        units = sorted({METRICS[r["metric"]].unit for r in results.values() if r is not None})
        unit = " or ".join(units) or "figure"
        best = self.best()
        rows = [["run", "best step", "held-out loss", unit, f"test: {unit}", "time", "status"]]
        for name, run in self.runs.items():
            mark = ", **best**" if run is best else ""
            rows.append([name, *_cells(results[name]), run.status + mark])
        return _markdown(rows)

    def best(self) -> Run | None:
        """The complete run of the least held-out loss."""
        complete = [run for run in self.runs.values() if run.result() is not None]
        return min(complete, key=Run.loss, default=None)

    def plot(self) -> None:
        """``sweep.png``: the held-out curves of all runs, the best first."""
        runs = sorted(self.runs.values(), key=Run.loss)
        result = runs[0].result() if runs else None
        figure = result["metric"] if result is not None else "loss"
        curves = []
        for run in runs:
            lines = [line for line in run.folder.metrics() if f"eval/{figure}" in line]
            points = [(line["step"], line[f"eval/{figure}"]) for line in lines]
            label = run.name if run.status == "complete" else f"{run.name} ({run.status})"
            curves.append((label, points, run.result() is not None))
        unit = METRICS[figure].unit if figure in METRICS else figure
        RunDir(self.folder).replace(PLOT, plot_sweep(curves, f"validation: {unit}"))


def _cells(result: dict[str, Any] | None) -> list[str]:
    """Best step, loss, figure, test figure, time; empty for a run that is not complete."""
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
    """Columns that stand below each other; those that are empty are left out.

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
