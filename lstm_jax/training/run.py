"""The run folder: what an experiment leaves behind, and whether it may be gone on with."""

import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from lstm_jax.training.config import ConfigError, Experiment
from lstm_jax.training.config_json import as_json, differences, from_json
from lstm_jax.training.data.vocabulary import Vocabulary
from lstm_jax.training.environment import environment
from lstm_jax.training.errors import RunError
from lstm_jax.training.model import Sizes

MAY_CHANGE = (
    "workdir",
    "train",
    "log",
    "mesh",
    "sample",
    "optimizer.learning_rate",
    "optimizer.warmup_steps",
)
"""What a run can be resumed with, other than it began."""


SAMPLE_HEADING = "=== step "
LOCK = ".lock"


class RunFolder:
    """A folder with config.json, environment.json, metrics.jsonl and more."""

    def __init__(self, path: Path, writes: bool = True):
        self.path, self.writes = path, writes  # of several processes one writes

    def file(self, name: str) -> Path:
        """A file of the run."""
        return self.path / name

    def check(self, experiment: Experiment) -> None:
        """Looks whether a run of this experiment can begin, or go on, in this folder.

        Raises:
          ConfigError: if it belongs to another experiment or holds something else.
        """
        if self.file("config.json").exists():
            self._compare(experiment)
        elif self.path.is_dir() and any(path.name != LOCK for path in self.path.iterdir()):
            raise ConfigError(
                f"workdir: {self.path} is not empty and holds no run; choose another with --workdir."
            )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Makes the folder where there is none, and holds it against a second process.

        The system lets go of it when this process ends, however it ends.

        Raises:
          ConfigError: if another process trains in it, or it cannot be written.
        """
        if not self.writes:
            yield
            return
        lock = self._lock()
        try:
            yield
        finally:
            lock.close()

    def begin(self, experiment: Experiment) -> list[str]:
        """Writes what is run and where.

        Returns:
          What was changed since the run was last gone on with.

        Raises:
          ConfigError: as :meth:`check` does, or if it cannot be written.
        """
        if not self.writes:
            return []
        self.check(experiment)
        known = self.file("config.json").exists()
        changes = differences(self.experiment(), experiment) if known else []
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.file("result.json").unlink(missing_ok=True)  # not complete until it says so again
            self._write("environment.json", environment())
            self._write("config.json", as_json(experiment))
        except OSError as error:
            raise self._unwritable(error) from error
        return changes

    def experiment(self) -> Experiment:
        """The experiment that the folder belongs to.

        Raises:
          ConfigError: if there is none.
        """
        path = self.file("config.json")
        try:
            return from_json(json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise ConfigError(f"{self.path} is no run folder: it has no config.json.") from error
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"{path} cannot be read as an experiment: {error}.") from error

    def write_task(self, sizes: Sizes, fingerprint: str, vocabulary: Vocabulary | None) -> None:
        """Writes what is needed to build the network again without the data."""
        self._write("task.json", sizes._asdict() | {"fingerprint": fingerprint})
        if vocabulary is not None and self.writes:
            vocabulary.save(self.file("vocabulary.json"))

    def check_data(self, fingerprint: str, vocabulary: Vocabulary | None) -> None:
        """Compares data with what the run began with.

        Raises:
          ConfigError: if it has changed; the message says what of the vocabulary has.
        """
        path, words = self.file("task.json"), self.file("vocabulary.json")
        if not path.exists() or fingerprint.startswith(json.loads(path.read_text())["fingerprint"]):
            return
        changes = ""
        if vocabulary is not None and words.exists():
            changes = vocabulary.changes(Vocabulary.load(words)) or "the vocabulary is the same"
        raise ConfigError(
            f"data.path: the data is not what {self.path} began with (another text, file or Python "
            f"release{changes and '; '}{changes}); bring that back, or choose another folder with "
            "--workdir."
        )

    def sizes(self) -> Sizes:
        """What of the task shaped the network."""
        content = json.loads(self.file("task.json").read_text())
        return Sizes(**{name: content[name] for name in Sizes._fields})

    def log(self, step: int, figures: dict[str, float]) -> None:
        """Adds a line to metrics.jsonl."""
        self._append("metrics.jsonl", json.dumps({"step": step, **figures}) + "\n")

    def event(self, step: int, what: str) -> None:
        """Adds a line to events.jsonl: when the run began, went on, changed, stopped."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._append("events.jsonl", json.dumps({"time": now, "step": step, "event": what}) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a torn last line, left by a kill, is left out."""
        lines = []
        path = self.file("metrics.jsonl")
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                lines.append(json.loads(line))
            except ValueError:
                break
        return lines

    def sample(self, step: int, text: str) -> None:
        """Adds a text to samples.txt."""
        self._append("samples.txt", f"{SAMPLE_HEADING}{step}\n{text}\n\n")

    def cut(self, step: int) -> None:
        """Drops metrics and samples past a step: the run goes on from there and writes them again."""
        if not self.writes:
            return
        lines = [json.dumps(line) for line in self.metrics() if line["step"] <= step]
        self.replace("metrics.jsonl", "".join(f"{line}\n" for line in lines))
        samples = self.file("samples.txt")
        if samples.exists():
            _, *texts = samples.read_text(encoding="utf-8").split(SAMPLE_HEADING)
            kept = [text for text in texts if int(text.split("\n", 1)[0]) <= step]
            self.replace("samples.txt", "".join(SAMPLE_HEADING + text for text in kept))

    def sync(self) -> None:
        """Has the system write what was added to files, before a checkpoint says that it was."""
        for name in ("metrics.jsonl", "samples.txt"):
            if self.file(name).exists():
                with self.file(name).open("rb") as file:
                    os.fsync(file.fileno())

    def _lock(self) -> IO[str]:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = self.file(LOCK).open("w")
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise ConfigError(
                f"workdir: another process trains in {self.path}; wait for it, or choose another with "
                "--workdir."
            ) from error
        return lock

    def _unwritable(self, error: OSError) -> ConfigError:
        return ConfigError(f"workdir: cannot write {self.path}: {error.strerror}.")

    def _append(self, name: str, text: str) -> None:
        if not self.writes:
            return
        try:
            with self.file(name).open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise RunError(
                f"cannot write {self.file(name)}: {error.strerror}. Mend that, and the same command goes "
                "on from the newest checkpoint."
            ) from error

    def finish(self, result: dict[str, Any]) -> None:
        """Writes result.json, which says that the run is complete."""
        self._write("result.json", result)

    def result(self, experiment: Experiment) -> dict[str, Any] | None:
        """What :meth:`finish` wrote, if the folder holds this very experiment, complete."""
        try:
            there = dataclasses.replace(self.experiment(), workdir=experiment.workdir)
            result = json.loads(self.file("result.json").read_text(encoding="utf-8"))
        except (ConfigError, OSError, ValueError):
            return None
        return result if there == experiment else None

    def replace(self, name: str, text: str) -> None:
        """Writes a file whole or not at all."""
        if not self.writes:
            return
        new = self.file(f"{name}.new")
        try:
            new.write_text(text, encoding="utf-8")
            os.replace(new, self.file(name))
        except OSError:
            new.unlink(missing_ok=True)
            raise

    def _compare(self, experiment: Experiment) -> None:
        changes = differences(self.experiment(), experiment)
        differs = [change for change in changes if not change.startswith(MAY_CHANGE)]
        if differs:
            raise ConfigError(
                f"workdir: {self.path} belongs to another experiment ({'; '.join(differs)}); choose "
                "another with --workdir, or remove it."
            )

    def _write(self, name: str, content: dict[str, Any]) -> None:
        self.replace(name, json.dumps(content, indent=2) + "\n")
