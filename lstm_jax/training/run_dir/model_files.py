"""``task.json`` and ``vocabulary.json``, from which a model can be built without its data."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lstm_jax.training.data.vocabulary import Vocabulary
from lstm_jax.training.errors import ConfigError, RunError
from lstm_jax.training.model import Sizes
from lstm_jax.training.run_dir import files

TASK, VOCABULARY = "task.json", "vocabulary.json"


class ModelFiles:
    """The files ``task.json`` and ``vocabulary.json`` of a run directory.

    Args:
      run_dir: The directory.
      writes: Whether this process writes. With several processes, only the first does.
    """

    def __init__(self, run_dir: Path, writes: bool = True):
        self.run_dir, self.writes = run_dir, writes

    def write(
        self,
        sizes: Sizes,
        fingerprint: str,
        vocabulary: Vocabulary | None,
        warn: Callable[[str], None],
    ) -> None:
        """Writes the files.

        Args:
          sizes: Input and output sizes of the model.
          fingerprint: A hash of the data.
          vocabulary: The vocabulary of a language model, None for other models.
          warn: Called with a message about each existing file that is corrupt.
        """
        if not self.writes:
            return
        task = sizes._asdict() | {"fingerprint": fingerprint}
        contents = {}
        if vocabulary is not None:
            contents[VOCABULARY] = vocabulary.to_json()
            task["vocabulary"] = _digest(contents[VOCABULARY].encode())
        contents[TASK] = json.dumps(task | {"check": _check(task)}, indent=2) + "\n"
        read = {TASK: self._task, VOCABULARY: self._vocabulary}
        for name, content in contents.items():
            path = self.run_dir / name
            if path.exists() and read[name]() is None:
                corrupt = files.set_aside(path)
                warn(f"{path} is corrupt; renamed it to {corrupt.name} and wrote a new file")
            files.write(path, content)

    def check_data(self, fingerprint: str, vocabulary: Vocabulary | None) -> None:
        """Checks that the data is the data that the run was started with. Skipped if it is unknown.

        Raises:
          ConfigError: If the data has changed. The message has the changes of the vocabulary.
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
            f"data.path: the data differs from the data that {self.run_dir} was started with (another "
            f"text, file or Python release{changes}); pass the original data with --data.path, or choose "
            "another directory with --workdir."
        )

    def is_readable(self) -> bool:
        """Returns whether task.json is valid, so that :meth:`check_data` can compare the data."""
        return self._task() is not None

    def check_complete(self) -> None:
        """Checks that the files that the model needs can be read.

        Raises:
          ConfigError: If a file is missing or corrupt.
        """
        self.sizes()
        self.vocabulary()

    def sizes(self) -> Sizes:
        """Returns the input and output sizes of the model.

        Raises:
          ConfigError: If task.json is missing or corrupt.
        """
        task = self._task()
        if task is None:
            raise self._missing(TASK)
        return Sizes(**{name: task[name] for name in Sizes._fields})

    def vocabulary(self) -> Vocabulary | None:
        """Returns the vocabulary of a language model, None for other models.

        Raises:
          ConfigError: If vocabulary.json is missing or corrupt.
        """
        vocabulary = self._vocabulary()
        task = self._task()
        if vocabulary is None and (task is None or "vocabulary" in task):
            raise self._missing(VOCABULARY)
        return vocabulary

    def _task(self) -> dict[str, Any] | None:
        """Returns the content of task.json, None if it is missing or corrupt."""
        try:
            task = json.loads((self.run_dir / TASK).read_text(encoding="utf-8"))
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
            content = (self.run_dir / VOCABULARY).read_bytes()
            vocabulary = Vocabulary.from_json(content.decode())
        except OSError as error:
            _raise_unless_missing(error)
            return None
        except (ValueError, TypeError, KeyError):
            return None
        return vocabulary if digest in (None, _digest(content)) else None

    def _missing(self, name: str) -> ConfigError:
        return ConfigError(
            f"{self.run_dir / name} is missing or corrupt; to write it again, run the command that "
            f"trained {self.run_dir}."
        )


def _raise_unless_missing(error: OSError) -> None:
    """Raises an error if a file exists but cannot be read. Such a file is not necessarily corrupt.

    Raises:
      RunError: If the error is not about a missing file.
    """
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise RunError(f"cannot read {error.filename}: {error.strerror}.") from error


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _check(task: dict[str, Any]) -> str:
    """Returns a hash of the content of task.json."""
    return _digest(json.dumps(task, sort_keys=True).encode())
