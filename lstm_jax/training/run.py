"""The run folder: what an experiment leaves behind, and whether it may be gone on with."""

import dataclasses
import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from lstm_jax.training import config
from lstm_jax.training.config import ConfigError, Experiment
from lstm_jax.training.data.vocabulary import Vocabulary
from lstm_jax.training.model import Sizes

GROUPS = {
    "model": config.Model,
    "data": config.Data,
    "optimizer": config.Optimizer,
    "train": config.Train,
    "sample": config.Sample,
}
MAY_CHANGE = ("workdir", "train", "sample", "optimizer.learning_rate", "optimizer.warmup_steps")
"""What a run can be resumed with, other than it began."""


SAMPLE_HEADING = "=== step "


class RunFolder:
    """A folder with config.json, environment.json, metrics.jsonl and more."""

    def __init__(self, path: Path):
        self.path = path

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
        elif self.path.is_dir() and any(self.path.iterdir()):
            raise ConfigError(
                f"workdir: {self.path} is not empty and holds no run; choose another with --workdir."
            )

    def begin(self, experiment: Experiment) -> None:
        """Makes the folder where there is none, and writes what is run and where.

        Raises:
          ConfigError: as :meth:`check` does, or if it cannot be written.
        """
        self.check(experiment)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._write("environment.json", environment())
            self._write("config.json", as_json(experiment))
        except OSError as error:
            raise ConfigError(f"workdir: cannot write {self.path}: {error.strerror}.") from error

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
        if vocabulary is not None:
            vocabulary.save(self.file("vocabulary.json"))

    def check_data(self, fingerprint: str) -> None:
        """Compares data with what the run began with.

        Raises:
          ConfigError: if it has changed.
        """
        path = self.file("task.json")
        if path.exists() and json.loads(path.read_text())["fingerprint"] != fingerprint:
            raise ConfigError(
                f"data.path: the data is not what {self.path} began with (another text, file or Python "
                "release); bring that back, or choose another folder with --workdir."
            )

    def sizes(self) -> Sizes:
        """What of the task shaped the network."""
        content = json.loads(self.file("task.json").read_text())
        return Sizes(**{name: content[name] for name in Sizes._fields})

    def log(self, step: int, figures: dict[str, float]) -> None:
        """Adds a line to metrics.jsonl."""
        with self.file("metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")

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
        with self.file("samples.txt").open("a", encoding="utf-8") as file:
            file.write(f"{SAMPLE_HEADING}{step}\n{text}\n\n")

    def cut(self, step: int) -> None:
        """Drops metrics and samples past a step: the run goes on from there and writes them again."""
        lines = [json.dumps(line) for line in self.metrics() if line["step"] <= step]
        self._replace("metrics.jsonl", "".join(f"{line}\n" for line in lines))
        samples = self.file("samples.txt")
        if samples.exists():
            _, *texts = samples.read_text(encoding="utf-8").split(SAMPLE_HEADING)
            kept = [text for text in texts if int(text.split("\n", 1)[0]) <= step]
            self._replace("samples.txt", "".join(SAMPLE_HEADING + text for text in kept))

    def _replace(self, name: str, text: str) -> None:
        """Writes a file whole or not at all."""
        new = self.file(f"{name}.new")
        new.write_text(text, encoding="utf-8")
        os.replace(new, self.file(name))

    def _compare(self, experiment: Experiment) -> None:
        before, now = (_flat(as_json(e)) for e in (self.experiment(), experiment))
        differs = [
            f"{name} was {before.get(name)}, now {now.get(name)}"
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name) and not name.startswith(MAY_CHANGE)
        ]
        if differs:
            raise ConfigError(
                f"workdir: {self.path} belongs to another experiment ({'; '.join(differs)}); choose "
                "another with --workdir, or remove it."
            )

    def _write(self, name: str, content: dict[str, Any]) -> None:
        self._replace(name, json.dumps(content, indent=2) + "\n")


def as_json(experiment: Experiment) -> dict[str, Any]:
    """An experiment as JSON has it: paths as strings."""
    return json.loads(json.dumps(dataclasses.asdict(experiment), default=str))


def from_json(content: dict[str, Any]) -> Experiment:
    """The inverse of :func:`as_json`."""
    fields = dict(content)
    for name, group in GROUPS.items():
        fields[name] = group(**_with_path(fields[name], "path"))
    return Experiment(**_with_path(fields, "workdir"))


def environment() -> dict[str, Any]:
    """Versions, machine and commit."""
    packages = ("lstm-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in packages},
        "devices": [str(device) for device in jax.devices()],
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "commit": _commit(),
    }


def _with_path(fields: dict[str, Any], name: str) -> dict[str, Any]:
    value = fields.get(name)
    return fields | {name: Path(value)} if value is not None else fields


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        key = f"{prefix}{name}"
        flat |= _flat(value, f"{key}.") if isinstance(value, dict) else {key: value}
    return flat


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
