"""Full and read-only disks."""

import contextlib
import dataclasses
import errno
import os
import subprocess

import pytest

from lstm_jax.training.config import ConfigError, Model, Train
from lstm_jax.training.errors import RunError
from lstm_jax.training.hooks import Console
from lstm_jax.training.inference import load
from lstm_jax.training.loop import fit
from tests.cases import nightly
from tests.training.runs import (
    fit_until_signal,
    latest_step,
    logged_metrics,
    outcome,
    same_metrics_and_params,
    small_config,
    text_data,
)

STRICT = False


@pytest.fixture
def mount_tmpfs(tmp_path):
    """``mount_tmpfs(options)``: mounts a file system in memory, and returns its path."""
    directory = tmp_path / "disk"
    directory.mkdir()

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(directory)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting a file system is not permitted here")
        return directory

    yield mount
    subprocess.run(["umount", str(directory)], capture_output=True)


def test_a_run_resumes_after_a_full_disk(tmp_path, mount_tmpfs):
    large = {"model": Model(hidden_size=96, embedding_size=4, dropout=0.2)}
    fit(uninterrupted := small_config(tmp_path, **large))
    resumed = dataclasses.replace(uninterrupted, workdir=mount_tmpfs("size=4m") / "run")
    (resumed.run_dir.parent / "other").write_bytes(bytes(3_200_000))
    with pytest.raises(RunError, match=rf"{resumed.run_dir}.*{os.strerror(errno.ENOSPC)}"):
        fit(resumed)
    (resumed.run_dir.parent / "other").unlink()
    fit(resumed)
    assert same_metrics_and_params(uninterrupted, resumed)


def test_a_read_only_directory_is_refused_before_anything_changes(tmp_path, mount_tmpfs):
    directory = mount_tmpfs("size=2m")
    experiment = small_config(tmp_path, train=Train(
        steps=8, log_every=4, eval_every=8, checkpoint_every=8, steps_per_dispatch=4
    ))  # fmt: skip
    experiment = dataclasses.replace(experiment, workdir=directory / "run")
    fit(experiment)
    before = logged_metrics(experiment)
    subprocess.run(["mount", "-o", "remount,ro", str(directory)], check=True)
    longer = dataclasses.replace(experiment.train, steps=16)
    names = rf"workdir.*{experiment.run_dir}.*{os.strerror(errno.EROFS)}"
    with pytest.raises(ConfigError, match=names):
        fit(dataclasses.replace(experiment, train=longer))
    assert logged_metrics(experiment) == before
    assert load(experiment.run_dir).step == 8  # the model can still be read


def move_to_full_disk(mount_tmpfs, path):
    """Replaces a file, which need not exist, by a link to a full disk. Returns its content."""
    target, content = mount_tmpfs("size=64k") / path.name, b""
    if path.exists():
        content = path.read_bytes()
        target.write_bytes(content)
        path.unlink()
    path.symlink_to(target)
    names = ["other"] + [target.name] * target.exists()  # the last page of the file has space left
    for name in names:
        with contextlib.suppress(OSError), (target.parent / name).open("ab", buffering=0) as file:
            while True:
                file.write(b"\n" * 4096)
    return content


@pytest.mark.parametrize(
    "name",
    ["task.json.new", "samples.txt", "result.json.new",
     *nightly("config.json.new", "environment.json.new", "vocabulary.json.new", "metrics.jsonl",
              "metrics.jsonl.new", "samples.txt.new", "events.jsonl", "curves.png.new")],
)  # fmt: skip
def test_a_full_disk_at_each_file(tmp_path, uninterrupted, monkeypatch, mount_tmpfs, name):
    run = fit_until_signal(uninterrupted, tmp_path / "run", monkeypatch)
    path, before = run.run_dir / name, []
    if name.endswith(".new"):
        move_to_full_disk(mount_tmpfs, path)
    else:  # later, as a resume replaces these files
        fill = lambda self, run: before.append(move_to_full_disk(mount_tmpfs, path))  # noqa: E731
        monkeypatch.setattr(Console, "on_start", fill)
    with pytest.raises(RunError, match=rf"cannot write.*{os.strerror(errno.ENOSPC)}") as error:
        fit(run)
    assert str(error.value).count("\n") == 0
    if before:
        path.unlink()
        path.write_bytes(*before)
    monkeypatch.undo()
    fit(run)
    assert outcome(run) == outcome(uninterrupted)


def test_a_full_disk_before_anything_is_written(tmp_path, mount_tmpfs):
    run = small_config(tmp_path)
    run.run_dir.mkdir()
    move_to_full_disk(mount_tmpfs, run.run_dir / "config.json.new")
    with pytest.raises(RunError, match=os.strerror(errno.ENOSPC)):
        fit(run)
    assert fit(run) is not None


def test_a_full_disk_at_the_best_model(tmp_path, text, monkeypatch, mount_tmpfs):
    large = {"model": dataclasses.replace(small_config(tmp_path).model, hidden_size=96)}
    uninterrupted = small_config(tmp_path, "uninterrupted", data=text_data(text), **large)
    fit(uninterrupted)
    run = fit_until_signal(uninterrupted, tmp_path / "run", monkeypatch, call=2)
    assert latest_step(run, "best") is None  # it was stopped before the first evaluation
    best = run.run_dir / "best"
    best.rmdir()
    best.symlink_to(mount_tmpfs("size=64k"))
    with pytest.raises(RunError, match=rf"{best}.*{os.strerror(errno.ENOSPC)}"):
        fit(run)
    assert not any("eval/loss" in line for line in logged_metrics(run))
    best.unlink()
    fit(run)
    assert outcome(run) == outcome(uninterrupted)
