"""Files of a run directory: atomic writes, invalid lines, renamed files."""

import errno
import os

import pytest

from lstm_jax.training.errors import RunError
from lstm_jax.training.run_dir import files

STRICT = False


def test_a_failed_write_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.write(path, "old")

    def fail(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(RunError, match=rf"{path}.*{os.strerror(errno.ENOSPC)}.*space"):
        files.write(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    "line", ["", "x", "[1]", '{"a": 1}', '{"step": "1"}', '{"step": 1.0}', '{"step": 1, "a": "b"}']
)
def test_invalid_lines_are_separated_from_valid_ones(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    files.append(path, f'\ufeff{{"step": 1}}\n{line}\n{{"step": 2}}')
    assert files.read_records(path) == ([{"step": 1}, {"step": 2}], [line.encode()])


def test_a_missing_file_has_no_records(tmp_path):
    assert files.read_records(tmp_path / "metrics.jsonl") == ([], [])
    files.sync(tmp_path / "metrics.jsonl")


def test_set_aside_uses_a_new_name_each_time(tmp_path):
    path = tmp_path / "400"
    names = []
    for _ in range(3):
        path.mkdir()
        names.append(files.set_aside(path).name)
    assert names == ["400.corrupt", "400.corrupt-2", "400.corrupt-3"]
    assert not path.exists()
