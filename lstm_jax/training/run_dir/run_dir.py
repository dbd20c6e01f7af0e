"""The run directory: what an experiment leaves behind, and whether it may be resumed."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lstm_jax.training.config import ConfigError, Experiment
from lstm_jax.training.config.json import as_json, differences, from_json
from lstm_jax.training.data.vocabulary import Vocabulary
from lstm_jax.training.errors import RunError
from lstm_jax.training.model import Sizes
from lstm_jax.training.run_dir import files, samples
from lstm_jax.training.run_dir.environment import environment
from lstm_jax.training.run_dir.lock import LOCK, SOFT_LOCK, locked

MAY_CHANGE = (
    "workdir",
    "train",
    "log",
    "mesh",
    "sample",
    "data.path",  # the same data in another place: its fingerprint is compared
    "optimizer.learning_rate",
    "optimizer.warmup_steps",
    "optimizer.decay_steps",
)
"""Fields, and groups of fields, with which a run may be resumed."""

NO_RESULT = ("workdir", "log", "mesh", "sample")
"""Fields, and groups of fields, that a complete run need not be trained again for."""

BEFORE_CONFIG = (LOCK, SOFT_LOCK, "config.json.new")
"""Files of a run that was interrupted before it had its config.json."""


class RunDir:
    """A run directory: config.json, metrics.jsonl, checkpoints and more.

    Args:
      path: The directory.
      writes: False for all but one of several processes; their methods write nothing.
    """

    def __init__(self, path: Path, writes: bool = True):
        self.path, self.writes = path, writes

    def file(self, name: str) -> Path:
        """Returns the path of a file of the run."""
        return self.path / name

    def check(self, experiment: Experiment) -> None:
        """Checks that the directory is empty or holds a run of the same experiment.

        Raises:
          ConfigError: if it belongs to another experiment or holds something else.
        """
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
                    f"workdir: {self.path} holds a run without its config.json; restore that file, or "
                    "choose another directory with --workdir."
                )
            if names:
                raise ConfigError(
                    f"workdir: {self.path} is not empty and holds no run; choose another directory "
                    "with --workdir."
                )

    @contextmanager
    def held(self, warn: Callable[[str], None]) -> Iterator[None]:
        """Creates the directory if it is missing, and locks it against other processes.

        Args:
          warn: Called with a message if the file system has no locks.

        Raises:
          ConfigError: if another process trains in it, or it cannot be written.
          RunError: if the disk is full.
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

    def begin(self, experiment: Experiment) -> Experiment | None:
        """Marks the run as incomplete. In a new directory it writes the experiment.

        Returns:
          The experiment with which the run was last started, None if it is new.

        Raises:
          ConfigError: as :meth:`check` does, or if the directory cannot be written.
          RunError: if the disk is full.
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
        """Writes the experiment and the environment, once nothing is left of other settings."""
        self._write("config.json", as_json(experiment))
        self._write("environment.json", environment())

    def experiment(self) -> Experiment:
        """Returns the experiment that the directory belongs to.

        Raises:
          ConfigError: if there is none.
        """
        path = self.file("config.json")
        try:
            return from_json(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise ConfigError(f"{self.path} is no run directory: it has no config.json.") from error
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(
                f"{path} cannot be read as an experiment: {error}. Restore the file from a copy."
            ) from error

    def write_task(
        self,
        sizes: Sizes,
        fingerprint: str,
        vocabulary: Vocabulary | None,
        warn: Callable[[str], None],
    ) -> None:
        """Writes what is needed to build the network again without the data.

        Args:
          sizes: Sizes of the network that follow from the data.
          fingerprint: A hash of the data.
          vocabulary: Of a language model.
          warn: Called with a message about each existing file that could not be read.
        """
        task = sizes._asdict() | {"fingerprint": fingerprint}
        contents = {}
        if vocabulary is not None:
            contents["vocabulary.json"] = vocabulary.to_json()
            task["vocabulary"] = _digest(contents["vocabulary.json"].encode())
        contents["task.json"] = json.dumps(task | {"check": _check(task)}, indent=2) + "\n"
        readable = {"task.json": self._task, "vocabulary.json": self._vocabulary}
        for name, content in contents.items():
            if self.writes and self.file(name).exists() and readable[name]() is None:
                corrupt = files.set_aside(self.file(name))
                warn(f"{self.file(name)} is corrupt; renamed to {corrupt.name} and written again")
            self.replace(name, content)

    def check_data(self, fingerprint: str, vocabulary: Vocabulary | None) -> None:
        """Compares data with what the run was started with, if that is known.

        Raises:
          ConfigError: if it has changed; the message says what of the vocabulary has.
        """
        task, before = self._task(), self._vocabulary()
        if task is None and before in (None, vocabulary):
            return
        if task is not None and fingerprint.startswith(task["fingerprint"]):
            return
        changes = ""
        if vocabulary is not None and before is not None:
            changes = f"; {vocabulary.changes(before) or 'the vocabulary is the same'}"
        raise ConfigError(
            f"data.path: the data is not what {self.path} was started with (another text, file or "
            f"Python release{changes}); pass --data.path with the original data, or choose another "
            "directory with --workdir."
        )

    def had_checkpoints(self) -> bool:
        """Whether the run has saved a checkpoint, as its other files show."""
        events = self.file("events.jsonl")
        lines = events.read_bytes().splitlines() if events.exists() else []
        saved = any(re.search(rb'"event": "(stopped|finished|resumed)', line) for line in lines)
        trained = bool(self.metrics()) and not self.file("checkpoints").is_dir()
        return self.file("result.json").exists() or saved or trained

    def knows_its_data(self) -> bool:
        """Whether :meth:`check_data` has something to compare with."""
        return self._task() is not None

    def sizes(self) -> Sizes:
        """Returns the sizes of the network that follow from the data.

        Raises:
          ConfigError: if task.json is missing or corrupt.
        """
        task = self._task()
        if task is None:
            raise self._missing("task.json")
        return Sizes(**{name: task[name] for name in Sizes._fields})

    def vocabulary(self) -> Vocabulary:
        """Returns the vocabulary of a language model.

        Raises:
          ConfigError: if vocabulary.json is missing or corrupt.
        """
        vocabulary = self._vocabulary()
        if vocabulary is None:
            raise self._missing("vocabulary.json")
        return vocabulary

    def log(self, step: int, figures: dict[str, float]) -> None:
        """Adds a line to metrics.jsonl."""
        self._append("metrics.jsonl", json.dumps({"step": step, **figures}) + "\n")

    def event(self, step: int, what: str) -> None:
        """Adds a line to events.jsonl: when the run started, resumed, changed, stopped."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._append("events.jsonl", json.dumps({"time": now, "step": step, "event": what}) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Returns the lines of metrics.jsonl that are valid."""
        return files.read_records(self.file("metrics.jsonl")).valid

    def sample(self, step: int, text: str) -> None:
        """Adds a text to samples.txt."""
        self._append("samples.txt", samples.entry(step, text))

    def cut(self, step: int, evaluated: bool, repeats: bool, warn: Callable[[str], None]) -> None:
        """Drops metrics and samples after a step, from which the run is resumed.

        Args:
          step: The step.
          evaluated: Whether to keep the evaluation of this step. Otherwise it is repeated.
          repeats: Whether training will give the same metrics and samples again. Otherwise they are
            moved to ``metrics.jsonl.superseded`` and ``samples.txt.superseded``.
          warn: Called with a message if metrics.jsonl has invalid lines, which are moved aside.
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
        if not repeats:
            later = [line for line in valid if not is_kept(line)]
            self._append("metrics.jsonl.superseded", _lines(later))
            _, kept = samples.split(content, lambda at: at > last)
            self._append("samples.txt.superseded", kept)
        self.replace("metrics.jsonl", _lines(list(filter(is_kept, valid))))
        if path.exists():
            self.replace("samples.txt", b"".join(samples.split(content, lambda at: at <= last)))

    def sync(self) -> None:
        """Waits until metrics and samples are on the disk, before a checkpoint counts on them."""
        for name in ("metrics.jsonl", "samples.txt"):
            files.sync(self.file(name))

    def finish(self, result: dict[str, Any]) -> None:
        """Writes result.json, which says that the run is complete."""
        self._write("result.json", result)

    def result(self, experiment: Experiment, same_data: bool = False) -> dict[str, Any] | None:
        """Returns what :meth:`finish` wrote, if the directory holds this experiment, complete.

        Args:
          experiment: The experiment.
          same_data: Whether it is known that data in another place is the same.
        """
        try:
            changes = differences(self.experiment(), experiment)
            result = json.loads(self.file("result.json").read_text(encoding="utf-8"))
            self.sizes()
            if experiment.data.task == "text":
                self.vocabulary()
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
        """Ends an incomplete last line, so that the next one starts a line."""
        path = self.file(name)
        content = path.read_bytes() if path.exists() else b"\n"
        if not content.endswith(b"\n"):
            files.append(path, "\n")

    def _task(self) -> dict[str, Any] | None:
        """Returns the content of task.json, None if it is missing or corrupt."""
        try:
            task = json.loads(self.file("task.json").read_text(encoding="utf-8"))
            valid = task.pop("check") == _check(task)
        except OSError as error:
            _raise_unless_missing(error)
            return None
        except (ValueError, TypeError, KeyError, AttributeError):
            return None
        return task if valid else None

    def _vocabulary(self) -> Vocabulary | None:
        """Returns the content of vocabulary.json, None if it is missing or corrupt."""
        digest = (self._task() or {}).get("vocabulary")
        try:
            content = self.file("vocabulary.json").read_bytes()
            vocabulary = Vocabulary.from_json(content.decode())
        except OSError as error:
            _raise_unless_missing(error)
            return None
        except (ValueError, TypeError, KeyError):
            return None
        return vocabulary if digest in (None, _digest(content)) else None

    def _missing(self, name: str) -> ConfigError:
        return ConfigError(
            f"{self.file(name)} is missing or corrupt; run the command that trained {self.path} "
            "again, which writes this file."
        )

    def _unwritable(self, error: OSError) -> ConfigError | RunError:
        if error.errno in files.NO_SPACE:
            return files.unwritable(self.path, error)
        return ConfigError(f"workdir: cannot write {self.path}: {error.strerror}.")


def _lines(records: list[dict[str, Any]]) -> str:
    return "".join(f"{json.dumps(record)}\n" for record in records)


def _raise_unless_missing(error: OSError) -> None:
    """Does nothing for a file that does not exist.

    Raises:
      RunError: if a file exists but cannot be read now. It need not be corrupt.
    """
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise RunError(f"cannot read {error.filename}: {error.strerror}.") from error


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _check(task: dict[str, Any]) -> str:
    """Returns a hash of the content of task.json."""
    return _digest(json.dumps(task, sort_keys=True).encode())


def _is_result(result: Any) -> bool:
    """Whether a result has the fields that its readers use."""
    try:
        numbers = [result["step"], result["seconds"], *result["figures"].values()]
        named = f"eval/{result['figure']}" in result["figures"] and "eval/loss" in result["figures"]
    except (TypeError, KeyError, AttributeError):
        return False
    return named and all(type(number) in (int, float) for number in numbers)
