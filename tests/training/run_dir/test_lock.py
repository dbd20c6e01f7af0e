"""The lock of a run directory."""

import errno
import os
import subprocess
import sys

import pytest

from lstm_jax.training.config import ConfigError
from lstm_jax.training.loop import fit
from lstm_jax.training.run_dir import RunDir
from lstm_jax.training.run_dir.lock import LOCK, SOFT_LOCK, locked
from tests.training.runs import small_config

STRICT = False


def test_a_second_run_in_the_same_directory_is_refused(tmp_path):
    experiment = small_config(tmp_path)
    run_dir = RunDir(experiment.run_dir)
    with (
        run_dir.locked(pytest.fail),
        pytest.raises(ConfigError, match=rf"workdir.*{experiment.run_dir}"),
    ):
        fit(experiment)
    fit(experiment)


@pytest.mark.parametrize("name", ["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def test_a_soft_lock_is_used_on_a_file_system_without_locks(tmp_path, monkeypatch, name):
    import fcntl

    def flock(file, operation):
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

    monkeypatch.setattr(fcntl, "flock", flock)
    warnings = []
    (tmp_path / LOCK).touch()  # a file of an earlier run
    with locked(tmp_path, warnings.append):
        assert (tmp_path / SOFT_LOCK).read_text().split("\n")[0] == str(os.getpid())
        with (
            pytest.raises(ConfigError, match=rf"workdir.*\b{os.getpid()}\b.*{SOFT_LOCK}"),
            locked(tmp_path, warnings.append),
        ):
            pass
    assert not (tmp_path / SOFT_LOCK).exists()
    assert os.strerror(getattr(errno, name)) in warnings[0]


def test_the_error_for_a_stale_lock_names_the_file_to_delete(tmp_path, monkeypatch):
    import fcntl

    def flock(file, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / SOFT_LOCK).write_text("99999\nelsewhere\n")
    names = r"workdir.*\b99999\b.*\belsewhere\b.*delete"
    with pytest.raises(ConfigError, match=names) as error, locked(tmp_path, lambda text: None):
        pass
    assert str(tmp_path / SOFT_LOCK) in str(error.value)


def test_other_errors_of_a_lock_are_reported_as_they_are(tmp_path, monkeypatch):
    import fcntl

    def flock(file, operation):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(ConfigError, match=os.strerror(errno.EIO)):
        fit(small_config(tmp_path))


def test_the_trainer_can_be_imported_without_fcntl():
    """Windows has no fcntl; filelock uses another lock there."""
    code = "import sys; sys.modules['fcntl'] = None; import lstm_jax.training.loop"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
