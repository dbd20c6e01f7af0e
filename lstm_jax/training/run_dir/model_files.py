"""task.json and vocabulary.json: what is needed to build a model again without its data."""

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
    """The two files in a run directory.

    Args:
      run_dir: The directory.
      writes: False for all but one of several processes; their methods write nothing.
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
          sizes: Sizes of the model that follow from the data.
          fingerprint: A hash of the data.
          vocabulary: The vocabulary of a language model.
          warn: Called with a message about each existing file that could not be read.
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
                warn(f"{path} is corrupt; renamed to {corrupt.name} and written again")
            files.write(path, content)

    def check_data(self, fingerprint: str, vocabulary: Vocabulary | None) -> None:
        """Compares data with the data that the run was started with, if that is known.

        Raises:
          ConfigError: if it has changed; the message says what has changed in the vocabulary.
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
            f"data.path: the data is not what {self.run_dir} was started with (another text, file or "
            f"Python release{changes}); pass --data.path with the original data, or choose another "
            "directory with --workdir."
        )

    def is_readable(self) -> bool:
        """Whether :meth:`check_data` has something to compare with."""
        return self._task() is not None

    def check_complete(self) -> None:
        """Checks that both files, as far as the model needs them, can be read.

        Raises:
          ConfigError: if one is missing or corrupt.
        """
        self.sizes()
        self.vocabulary()

    def sizes(self) -> Sizes:
        """Returns the sizes of the model that follow from the data.

        Raises:
          ConfigError: if task.json is missing or corrupt.
        """
        task = self._task()
        if task is None:
            raise self._missing(TASK)
        return Sizes(**{name: task[name] for name in Sizes._fields})

    def vocabulary(self) -> Vocabulary | None:
        """Returns the vocabulary of a language model, None for other models.

        Raises:
          ConfigError: if vocabulary.json is missing or corrupt.
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
            f"{self.run_dir / name} is missing or corrupt; run the command that trained "
            f"{self.run_dir} again, which writes this file."
        )


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
