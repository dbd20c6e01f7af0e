import errno
import os

import pytest

from lstm_jax.training.config import ConfigError
from lstm_jax.training.data import text_files
from lstm_jax.training.data.text_files import files_text
from tests.training.data.build import decoded

STRICT = False


@pytest.mark.parametrize("block", [1, 2, 3, 7, 10_000])
@pytest.mark.parametrize("characters", ["abcdefghij", "aé東😀bcdefg"])
def test_a_file_is_split_nine_to_one(tmp_path, monkeypatch, block, characters):
    monkeypatch.setattr(text_files, "BLOCK", block)
    path = tmp_path / "text.txt"
    path.write_text(characters * 10, encoding="utf-8")
    train, validation, test = decoded(files_text(path))
    assert (len(train), len(validation), len(test)) == (90, 10, 0)
    assert train + validation == characters * 10


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (None, rf"data\.path.*text\.txt.*{os.strerror(errno.ENOENT)}"),
        (b"", r"data\.path.*\b10\b.*\b0\b.*text\.txt"),
        (b"too short", r"data\.path.*\b10\b.*\b9\b.*text\.txt"),
        (b"na\xefve" * 10, r"data\.path.*text\.txt.*UTF-8.*\b2\b"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, content, names):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=names):
        decoded(files_text(path))


def test_a_directory_of_texts(tmp_path):
    with pytest.raises(ConfigError, match=rf"data\.path.*{tmp_path}.*\.txt"):
        files_text(tmp_path)
    for name in "ba":
        (tmp_path / f"{name}.txt").write_text(name * 50)
    train, validation, _ = decoded(files_text(tmp_path))
    assert train + validation == "a" * 50 + "\n\n" + "b" * 50
