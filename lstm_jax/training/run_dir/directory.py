"""``RunDir``: reads and writes the files of a run, and checks that the run can be resumed."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lstm_jax.training.config import ConfigError, Experiment
from lstm_jax.training.config.json import as_json, differences, from_json
from lstm_jax.training.errors import RunError
from lstm_jax.training.run_dir import files, samples
from lstm_jax.training.run_dir.environment import environment
from lstm_jax.training.run_dir.lock import LOCK, SOFT_LOCK, locked
from lstm_jax.training.run_dir.model_files import ModelFiles

MAY_CHANGE = (
    "workdir",
    "train",
    "log",
    "mesh",
    "sample",
    "data.path",  # the data may have moved: its fingerprint is compared
    "optimizer.learning_rate",
    "optimizer.warmup_steps",
    "optimizer.decay_steps",
)
"""Fields and groups of fields that may change when a run is resumed."""

NO_RESULT = ("workdir", "log", "mesh", "sample")
"""Fields and groups of fields that do not affect the result of a complete run."""

BEFORE_CONFIG = (LOCK, SOFT_LOCK, "config.json.new")
"""Files of a run that was interrupted before config.json was written."""


class RunDir:
    """A run directory with config.json, metrics.jsonl, checkpoints and other files.

    Args:
      path: The directory.
      writes: Whether this process writes. With several processes, only the first does.
    """

    def __init__(self, path: Path, writes: bool = True):
        self.path, self.writes = path, writes
        self.model_files = ModelFiles(path, writes)

    def file(self, name: str) -> Path:
        """Returns the path of a file of the run."""
        return self.path / name

    def check(self, experiment: Experiment) -> None:
        """Checks that the directory is empty or holds a run of the same experiment.

        Raises:
          ConfigError: If the directory belongs to another experiment or has unrelated files, or checkpoints
            cannot be read from a path like this.
        """
        if set("[]") & set(str(self.path.absolute())):
            raise ConfigError(
                f"workdir must not contain '[' or ']', as checkpoints could not be read, got {self.path}."
            )
        if self.file("config.json").exists():
            changes = differences(self.experiment(), experiment)
            differs = [text for name, text in changes.items() if not name.startswith(MAY_CHANGE)]
            if differs:
                raise ConfigError(
                    f"workdir: {self.path} belongs to another experiment ({'; '.join(differs)}); "
                    "choose another directory with --workdir."
                )
        elif self.path.is_dir():
            names = {path.name for path in self.path.iterdir()} - set(BEFORE_CONFIG)
            if names & {"checkpoints", "best", "metrics.jsonl"}:
                raise ConfigError(
                    f"workdir: config.json is missing in the run directory {self.path}; restore the file, "
                    "or choose another directory with --workdir."
                )
            if names:
                raise ConfigError(
                    f"workdir must be an empty directory or a run directory, got {self.path}; choose "
                    "another directory with --workdir."
                )

    @contextmanager
    def locked(self, warn: Callable[[str], None]) -> Iterator[None]:
        """Creates the directory if it is missing, and locks it against other processes.

        Args:
          warn: Called with a message if the file system does not support locks.

        Raises:
          ConfigError: If another process trains in the directory, or the directory cannot be written.
          RunError: If the disk is full.
        """
        if not self.writes:
            yield
            return
        with ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(self.path, warn))
            except OSError as error:
                raise self._unwritable(error) from error
            yield

    def start(self, experiment: Experiment) -> Experiment | None:
        """Marks the run as incomplete. Writes config.json if the directory is new.

        Returns:
          The experiment with which the run was last started. None for a new run.

        Raises:
          ConfigError: As :meth:`check`, or if the directory cannot be written.
          RunError: If the disk is full.
        """
        if not self.writes:
            return None
        self.check(experiment)
        before = self.experiment() if self.file("config.json").exists() else None
        try:
            self.file("result.json").unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error
        self._end_line("events.jsonl")
        if before is None:
            self._write("config.json", as_json(experiment))  # first: it makes this a run directory
        return before

    def write_settings(self, experiment: Experiment) -> None:
        """Writes the experiment and the environment, after results of other settings were renamed."""
        self._write("config.json", as_json(experiment))
        self._write("environment.json", environment())

    def experiment(self) -> Experiment:
        """Returns the experiment in config.json.

        Raises:
          ConfigError: If the file is missing or invalid.
        """
        path = self.file("config.json")
        try:
            return from_json(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise ConfigError(
                f"{self.path} is not a run directory: config.json is missing."
            ) from error
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}.") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(
                f"{path} is not a valid experiment: {error}. Restore the file from a copy."
            ) from error

    def had_checkpoints(self) -> bool:
        """Returns whether the run has saved a checkpoint, according to its other files."""
        events = self.file("events.jsonl")
        lines = events.read_bytes().splitlines() if events.exists() else []
        saved = any(re.search(rb'"event": "(stopped|finished|resumed)', line) for line in lines)
        trained = bool(self.metrics()) and not self.file("checkpoints").is_dir()
        return self.file("result.json").exists() or saved or trained

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Adds a line to metrics.jsonl."""
        self._append("metrics.jsonl", json.dumps({"step": step, **metrics}) + "\n")

    def event(self, step: int, text: str) -> None:
        """Adds a line to events.jsonl, for instance that the run was started or resumed."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._append("events.jsonl", json.dumps({"time": now, "step": step, "event": text}) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Returns the valid lines of metrics.jsonl as dicts."""
        return files.read_records(self.file("metrics.jsonl")).valid

    def sample(self, step: int, text: str) -> None:
        """Adds a text to samples.txt."""
        self._append("samples.txt", samples.entry(step, text))

    def truncate(
        self, step: int, evaluated: bool, reproducible: bool, warn: Callable[[str], None]
    ) -> None:
        """Removes the metrics and samples of later steps before a run is resumed.

        Args:
          step: The step from which the run is resumed.
          evaluated: Whether to keep the evaluation of this step. If False, training repeats it.
          reproducible: Whether training will reproduce the removed metrics and samples. If False, they
            are moved to ``metrics.jsonl.superseded`` and ``samples.txt.superseded``.
          warn: Called with a message if metrics.jsonl has invalid lines. They are moved to
            ``metrics.jsonl.corrupt``.
        """
        if not self.writes:
            return
        valid, invalid = files.read_records(self.file("metrics.jsonl"))
        if invalid:
            aside = self.file("metrics.jsonl.corrupt")
            files.append(aside, b"".join(line + b"\n" for line in invalid))
            warn(
                f"{self.file('metrics.jsonl')} has {len(invalid)} invalid "
                f"line{'s'[: len(invalid) != 1]}, moved to {aside.name}"
            )

        def is_kept(line: dict[str, Any]) -> bool:
            again = line["step"] == step and "eval/loss" in line and not evaluated
            return line["step"] <= step and not again

        path, last = self.file("samples.txt"), step if evaluated else step - 1
        content = path.read_bytes() if path.exists() else b""
        if not reproducible:
            later = [line for line in valid if not is_kept(line)]
            self._append("metrics.jsonl.superseded", _lines(later))
            _, kept = samples.split(content, lambda at: at > last)
            self._append("samples.txt.superseded", kept)
        self.replace("metrics.jsonl", _lines(list(filter(is_kept, valid))))
        if path.exists():
            self.replace("samples.txt", b"".join(samples.split(content, lambda at: at <= last)))

    def sync(self) -> None:
        """Waits until metrics and samples are on disk, so that a checkpoint can refer to them."""
        for name in ("metrics.jsonl", "samples.txt"):
            files.sync(self.file(name))

    def finish(self, result: dict[str, Any]) -> None:
        """Writes result.json, which marks the run as complete."""
        self._write("result.json", result)

    def result(self, experiment: Experiment, same_data: bool = False) -> dict[str, Any] | None:
        """Returns the content of result.json. None if the run is incomplete or of another experiment.

        Args:
          experiment: The experiment.
          same_data: Whether the data is known to be the same even if ``data.path`` differs.
        """
        try:
            changes = differences(self.experiment(), experiment)
            result = json.loads(self.file("result.json").read_text(encoding="utf-8"))
            self.model_files.check_complete()
        except (ConfigError, OSError, ValueError):
            return None
        may_change = (*NO_RESULT, "data.path") if same_data else NO_RESULT
        same = all(name.startswith(may_change) for name in changes)
        return result if same and _is_result(result) else None

    def replace(self, name: str, content: str | bytes) -> None:
        """Replaces a file atomically."""
        if self.writes:
            files.write(self.file(name), content)

    def _append(self, name: str, content: str | bytes) -> None:
        if self.writes and content:
            files.append(self.file(name), content)

    def _write(self, name: str, content: dict[str, Any]) -> None:
        self.replace(name, json.dumps(content, indent=2) + "\n")

    def _end_line(self, name: str) -> None:
        """Ends an incomplete last line with a newline."""
        path = self.file(name)
        content = path.read_bytes() if path.exists() else b"\n"
        if not content.endswith(b"\n"):
            files.append(path, "\n")

    def _unwritable(self, error: OSError) -> ConfigError | RunError:
        if error.errno in files.NO_SPACE:
            return files.unwritable(self.path, error)
        return ConfigError(f"workdir: cannot write {self.path}: {error.strerror}.")


def _lines(records: list[dict[str, Any]]) -> str:
    return "".join(f"{json.dumps(record)}\n" for record in records)


def _is_result(result: Any) -> bool:
    """Returns whether a result has the required fields with valid types."""
    try:
        numbers = [result["step"], result["seconds"], *result["metrics"].values()]
        names = {"eval/loss", f"eval/{result['metric']}"}
        named = names <= result["metrics"].keys()
    except (TypeError, KeyError, AttributeError):
        return False
    return named and all(type(number) in (int, float) for number in numbers)
