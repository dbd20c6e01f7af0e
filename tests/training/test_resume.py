"""Resumed runs: equal to uninterrupted ones; missing and corrupt files, moved data, changed settings."""

import dataclasses
import json
import multiprocessing
import os
import re
import shutil
import signal

import numpy as np
import pytest

from lstm_jax.training import start
from lstm_jax.training.checkpointing.checkpoints import steps_in
from lstm_jax.training.checkpointing.run_checkpoints import RunCheckpoints
from lstm_jax.training.config import (
    ConfigError,
    Data,
    Optimizer,
    Sample,
    Train,
)
from lstm_jax.training.data import text_files, tokens
from lstm_jax.training.inference import load
from lstm_jax.training.loop import fit
from lstm_jax.training.run import Run
from lstm_jax.training.run_dir import directory
from tests.cases import nightly
from tests.training.runs import (
    corrupt_checkpoint,
    events,
    file_contents,
    fit_silently,
    fit_until_signal,
    latest_step,
    learning_rates,
    logged_metrics,
    outcome,
    same_metrics_and_params,
    small_config,
    text_data,
)

STRICT = False


class Stop(Exception):
    """Raised in a run to interrupt it."""


@pytest.mark.parametrize(
    "case",
    [
        ("generated", 2),  # nothing was saved yet
        ("text", 20),
        ("arrays", 14),
        *nightly(("generated", 8), ("generated", 14), ("generated", 24), ("text", 10)),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_run(tmp_path, text, monkeypatch, case):
    kind, last = case
    np.savez(tmp_path / "own.npz", inputs=np.random.default_rng(0).standard_normal((30, 5, 2)))
    data = {
        "generated": small_config(tmp_path).data,
        "text": text_data(text),
        "arrays": Data(task="arrays", path=tmp_path / "own.npz", batch_size=4),
    }[kind]
    uninterrupted, resumed = (
        small_config(tmp_path, name, data=data) for name in ("uninterrupted", "resumed")
    )
    fit(uninterrupted)

    all_batches = Run.batches

    def batches_until_last(self):
        for done, batches in all_batches(self):
            yield done, batches
            if done == last:
                raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Run, "batches", batches_until_last)
        if last < 24:
            with pytest.raises(Stop):
                fit(resumed)
    if last < 24:
        with (resumed.run_dir / "metrics.jsonl").open("a") as file:
            file.write('{"step": 23, "train/lo')  # as a kill in the middle of a line leaves it
    fit(resumed)
    for name in ("checkpoints", "best"):
        assert latest_step(resumed, name) == latest_step(uninterrupted, name)
    assert same_metrics_and_params(resumed, uninterrupted)


def test_a_complete_run_resumes_with_more_steps(tmp_path):
    experiment = small_config(tmp_path)
    fit(experiment)
    fit(dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, steps=32)))
    assert logged_metrics(experiment)[-1]["step"] == 32


def test_a_dispatch_must_start_at_the_step_to_resume_from(tmp_path):
    """Otherwise a dispatch would pass the last step, or an evaluation."""
    experiment = small_config(tmp_path)
    fit(experiment)
    longer = dataclasses.replace(
        experiment.train,
        steps=48,
        steps_per_dispatch=16,
        log_every=16,
        eval_every=16,
        checkpoint_every=16,
    )
    with pytest.raises(ConfigError, match=r"train\.steps_per_dispatch.*\b24\b.*\b16\b"):
        fit(dataclasses.replace(experiment, train=longer))


def test_a_large_text_is_not_read_again_on_resume(tmp_path, text, monkeypatch):
    monkeypatch.setenv("LSTM_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tokens, "LARGE", 0)
    constant = Optimizer(warmup_steps=2, schedule="constant")
    runs = [small_config(tmp_path, n, data=text_data(text), optimizer=constant) for n in ("a", "b")]
    fit(runs[0])
    monkeypatch.setattr(text_files, "_raw_blocks", None)  # from here on, the text cannot be read
    fit(dataclasses.replace(runs[1], train=dataclasses.replace(runs[1].train, steps=8)))
    fit(runs[1])
    last = [[line for line in logged_metrics(run) if line["step"] == 24] for run in runs]
    assert last[0] == last[1]


def test_a_run_resumes_with_a_changed_learning_rate(tmp_path, capsys):
    experiment = small_config(tmp_path)
    fit(experiment)
    slower = dataclasses.replace(
        experiment,
        optimizer=dataclasses.replace(experiment.optimizer, learning_rate=1e-4),
        train=dataclasses.replace(experiment.train, steps=32),
    )
    fit(slower)
    assert "changed: optimizer.learning_rate was 0.006, now 0.0001" in capsys.readouterr().out
    assert (
        "optimizer.learning_rate was 0.006, now 0.0001; train.steps was 24, now 32"
        in events(experiment)[2]
    )


def test_a_run_without_checksums_resumes_with_a_warning(
    tmp_path, uninterrupted, monkeypatch, capsys
):
    """Some tools leave out small files when they copy directories."""
    run = fit_until_signal(uninterrupted, tmp_path / "run", monkeypatch)
    for path in run.run_dir.glob("*/*/notes"):
        shutil.rmtree(path)
    before = logged_metrics(run)
    fit(run)
    printed = capsys.readouterr().out
    assert "resuming from step 18" in printed
    assert printed.count("has no checksums") == 2
    assert logged_metrics(run)[: len(before)] == before
    assert outcome(run)["best"] == outcome(uninterrupted)["best"]


def test_nothing_changes_if_no_checkpoint_can_be_restored(
    tmp_path, uninterrupted, monkeypatch, capsys
):
    run = fit_until_signal(uninterrupted, tmp_path / "run", monkeypatch)
    for step in steps_in(run.run_dir / "checkpoints"):
        corrupt_checkpoint(run.run_dir / "checkpoints" / str(step))
    before = file_contents(run.run_dir)
    with pytest.raises(ConfigError, match=r"checkpoints.*\b18: .*\b16: .*[Nn]othing was changed"):
        fit(run)
    assert file_contents(run.run_dir) == before


def test_a_run_whose_best_models_are_corrupt_saves_one_again(
    tmp_path, uninterrupted, monkeypatch, capsys
):
    final_evaluation = 5
    run = fit_until_signal(
        uninterrupted, tmp_path / "run", monkeypatch, "evaluation", final_evaluation
    )
    for step in steps_in(run.run_dir / "best"):
        corrupt_checkpoint(run.run_dir / "best" / str(step))
    fit(run)
    assert load(run.run_dir).step == 24
    assert len(list((run.run_dir / "best").glob("*.corrupt"))) == 3
    assert outcome(run)["metrics"] == outcome(uninterrupted)["metrics"]


def fit_and_kill_at_a_best_model(experiment):
    """Trains until a best model is being saved, then kills this process."""
    offer = RunCheckpoints.save_if_best

    def offer_and_kill(*args):
        offer(*args)
        os.kill(os.getpid(), signal.SIGKILL)

    RunCheckpoints.save_if_best = offer_and_kill
    fit_silently(experiment)


def test_the_best_model_is_on_disk_before_its_metrics_are_logged(
    tmp_path, uninterrupted, monkeypatch
):
    """Stops the run in the last evaluation, then kills it while the best model is written."""
    run = fit_until_signal(uninterrupted, tmp_path / "run", monkeypatch, "evaluation", 4)
    assert logged_metrics(run)[-1] == logged_metrics(uninterrupted)[-2]
    context = multiprocessing.get_context("forkserver")
    child = context.Process(target=fit_and_kill_at_a_best_model, args=(run,))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    fit(run)
    assert outcome(run) == outcome(uninterrupted)


def test_an_older_checkpoint_resumes_with_its_best_model(tmp_path):
    """The best model of a checkpoint is kept, even if ``keep_best`` later models are better."""
    train = Train(
        steps=48, log_every=4, eval_every=4, checkpoint_every=16, steps_per_dispatch=4, keep_best=1
    )
    fast = Optimizer(learning_rate=0.03, warmup_steps=0, schedule="constant")
    run = small_config(tmp_path, train=train, optimizer=fast)
    fit(run)
    models, states = (steps_in(run.run_dir / name) for name in ("best", "checkpoints"))
    assert states == [48, 32]
    assert min(models) <= 32
    corrupt_checkpoint(run.run_dir / "checkpoints" / "48")
    longer = dataclasses.replace(run, train=dataclasses.replace(train, steps=64, patience=1))
    fit(longer)
    losses = [line["eval/loss"] for line in logged_metrics(longer) if "eval/loss" in line]
    assert load(run.run_dir).step == 4 * (1 + int(np.argmin(losses)))


def test_a_second_signal_in_the_repeated_evaluation(tmp_path, uninterrupted, monkeypatch):
    second = 2  # the evaluation of step 12
    run = fit_until_signal(uninterrupted, tmp_path / "run", monkeypatch, "evaluation", second)
    for _ in range(2):
        fit_until_signal(uninterrupted, tmp_path / "run", monkeypatch, "evaluation", 1)
        assert events(run)[-1] == "stopped by SIGTERM"
        assert logged_metrics(run)[-1]["step"] == 12
    fit(run)
    assert outcome(run) == outcome(uninterrupted)


def test_a_run_finishes_with_fewer_steps_than_its_checkpoint(tmp_path, uninterrupted, monkeypatch):
    """The step of the checkpoint is not a multiple of ``eval_every``, so it is evaluated first."""
    run = fit_until_signal(uninterrupted, tmp_path / "run", monkeypatch, call=2)
    fit(dataclasses.replace(run, train=dataclasses.replace(run.train, steps=2, checkpoint_every=4)))
    assert load(run.run_dir).step == 4


def test_later_results_of_other_settings_are_renamed(tmp_path, uninterrupted, monkeypatch, capsys):
    """Resumes from the previous checkpoint with another learning rate, as the latest is corrupt."""
    run = dataclasses.replace(uninterrupted, workdir=tmp_path / "run")
    shutil.copytree(uninterrupted.run_dir, run.run_dir)
    corrupt_checkpoint(run.run_dir / "checkpoints" / "24")
    slower = dataclasses.replace(run.optimizer, learning_rate=1e-5)
    fit(dataclasses.replace(run, optimizer=slower))
    assert (run.run_dir / "best" / "24.superseded").is_dir()
    later = (run.run_dir / "metrics.jsonl.superseded").read_text().splitlines()
    assert [json.loads(line)["step"] for line in later] == [18, 20, 24, 24]
    assert (run.run_dir / "samples.txt.superseded").read_text().count("=== step ") == 2
    assert (
        "warning: the model of step 24 was trained with other settings" in capsys.readouterr().out
    )


def test_later_results_are_renamed_after_an_interruption(tmp_path, uninterrupted, monkeypatch):
    """The resume is interrupted before the renaming; the next one still finds the changed setting."""
    experiment = dataclasses.replace(uninterrupted, workdir=tmp_path / "run")
    shutil.copytree(uninterrupted.run_dir, experiment.run_dir)
    corrupt_checkpoint(experiment.run_dir / "checkpoints" / "24")
    slower = dataclasses.replace(experiment.optimizer, learning_rate=1e-5)
    experiment = dataclasses.replace(experiment, optimizer=slower)

    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(start, "RunCheckpoints", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fit(experiment)
    fit(experiment)
    assert (experiment.run_dir / "best" / "24.superseded").is_dir()


def replace_by_file(path):
    """Replaces a directory by an empty file."""
    shutil.rmtree(path)
    path.write_text("")


def replace_by_dangling_link(path):
    """Replaces a directory by a link to a path that does not exist."""
    shutil.rmtree(path)
    path.symlink_to("nowhere")


@pytest.mark.parametrize("break_", [shutil.rmtree, replace_by_file, replace_by_dangling_link])
@pytest.mark.parametrize("name", ["checkpoints", "best"])
def test_a_run_without_its_checkpoint_directory(tmp_path, uninterrupted, monkeypatch, break_, name):
    run = fit_until_signal(uninterrupted, tmp_path / "run", monkeypatch)
    break_(run.run_dir / name)
    before = file_contents(run.run_dir)
    if name == "best" and break_ is shutil.rmtree:  # models are saved again
        fit(run)
        assert load(run.run_dir).step == 24
        return
    with pytest.raises(ConfigError, match=rf"workdir.*{run.run_dir / name}.*--workdir"):
        fit(run)
    assert file_contents(run.run_dir) == before


@pytest.mark.parametrize(
    "line", [b"", b"\xff", *nightly(b"garbage", b"[1]", b'{"step": "a"}', b'{"a": 1}')]
)
def test_an_invalid_line_of_metrics_is_moved(tmp_path, uninterrupted, monkeypatch, capsys, line):
    run = fit_until_signal(uninterrupted, tmp_path / "run", monkeypatch)
    path = run.run_dir / "metrics.jsonl"
    first, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(first + b"\n" + line + b"\n" + rest)
    fit(run)
    assert logged_metrics(run) == logged_metrics(uninterrupted)
    assert re.search(r"warning: .*metrics\.jsonl.*\b1 invalid line\b", capsys.readouterr().out)
    assert path.with_name("metrics.jsonl.corrupt").read_bytes() == line + b"\n"


def test_a_byte_order_mark_and_an_incomplete_last_line_are_skipped(
    tmp_path, uninterrupted, monkeypatch, capsys
):
    run = fit_until_signal(uninterrupted, tmp_path / "run", monkeypatch)
    path = run.run_dir / "metrics.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b'{"step": 20, "tr')
    fit(run)
    assert logged_metrics(run) == logged_metrics(uninterrupted)
    assert "warning" not in capsys.readouterr().out


def test_samples_with_headings_and_carriage_returns_are_restored(tmp_path, text, monkeypatch):
    text.write_bytes(text.read_bytes().replace(b". ", b".\r\n=== step 6\r"))
    prompt = Sample(prompt="=== step 12\n\r=== step 5 ", length=20)
    run = small_config(tmp_path, "run", data=text_data(text), sample=prompt)
    fit(run)
    resumed = fit_until_signal(run, tmp_path / "resumed", monkeypatch)
    fit(resumed)
    samples = [(r.run_dir / "samples.txt").read_bytes() for r in (run, resumed)]
    assert samples[0] == samples[1]
    assert samples[0].count(b"\\=== step 12\n\r=== step 5 ") == 4


def test_a_run_resumes_with_moved_data(tmp_path, text, monkeypatch, capsys):
    uninterrupted = small_config(tmp_path, "uninterrupted", data=text_data(text))
    fit(uninterrupted)
    run = fit_until_signal(uninterrupted, tmp_path / "run", monkeypatch)
    moved = text.with_name("moved.txt")
    text.rename(moved)
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, path=moved))
    fit(run)
    assert f"data.path was {text}, now {moved}" in capsys.readouterr().out
    assert outcome(run) == outcome(uninterrupted)
    assert "complete" in (fit(run) and capsys.readouterr().out)


@pytest.mark.parametrize("task", ["arrays", "text"])
def test_other_data_at_another_path_is_refused(tmp_path, text, task):
    """Detects a change of the training data, too."""
    if task == "arrays":
        xs = np.random.default_rng(0).standard_normal((30, 5, 2)).astype(np.float32)
        path, other = tmp_path / "one.npz", tmp_path / "other.npz"
        np.savez(path, inputs=xs)
        changed = [xs.copy() for _ in range(30)]
        for n, array in enumerate(changed):
            array[n, 0] += 1
        data = Data(task="arrays", path=path, batch_size=4)
    else:
        path, other = text, text.with_name("other.txt")
        data, changed = text_data(path), None
    run = small_config(tmp_path, "run", data=data)
    fit(run)
    for n in range(30 if changed else 1):
        if changed:
            np.savez(other, inputs=changed[n])
        else:
            other.write_text(text.read_text().replace("fox", "fix", 1))
        moved = dataclasses.replace(run, data=dataclasses.replace(data, path=other))
        with pytest.raises(ConfigError, match=r"data\.path"):
            fit(moved)


def test_a_jump_of_the_learning_rate_is_reported_and_decay_steps_avoids_it(tmp_path, capsys):
    run = small_config(tmp_path)
    fit(run)
    shutil.copytree(run.run_dir, tmp_path / "copy")
    longer = dataclasses.replace(run, train=dataclasses.replace(run.train, steps=48))
    fit(longer)
    message = r"the learning rate at step 24 was 0, now 0\.0032.*--optimizer\.decay-steps 24\b"
    assert re.search(f"changed: {message}", capsys.readouterr().out)
    assert re.search(message, events(run)[2])
    assert learning_rates(longer)[28] > 1e-3

    unchanged = dataclasses.replace(
        longer,
        workdir=tmp_path / "copy",
        optimizer=dataclasses.replace(run.optimizer, decay_steps=24),
    )
    fit(unchanged)  # the schedule is at its end
    assert "learning rate" not in capsys.readouterr().out
    assert learning_rates(unchanged)[48] == 0


def test_a_complete_run_is_not_changed(tmp_path, text, capsys):
    run = small_config(tmp_path, data=text_data(text))
    result = fit(run)
    before = {
        p: (p.read_bytes(), p.stat().st_mtime_ns) for p in run.run_dir.rglob("*") if p.is_file()
    }
    other_sample = dataclasses.replace(run, sample=Sample(prompt="fox", length=9))
    capsys.readouterr()
    for again in (run, other_sample):
        assert fit(again) == result
        assert re.search(
            rf"{run.run_dir} is complete\. Best checkpoint: step \d+", capsys.readouterr().out
        )
    assert before == {
        p: (p.read_bytes(), p.stat().st_mtime_ns) for p in run.run_dir.rglob("*") if p.is_file()
    }


def test_a_run_interrupted_when_it_is_extended_is_incomplete(tmp_path, monkeypatch):
    experiment = small_config(tmp_path)
    fit(experiment)
    longer = dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, steps=32))

    def interrupt():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(directory, "environment", interrupt)  # called after config.json was written
        with pytest.raises(KeyboardInterrupt):
            fit(longer)
    fit(longer)
    assert logged_metrics(longer)[-1]["step"] == 32


@pytest.mark.parametrize(
    "content", ["{", *nightly("[]", '{"step": 1}', '{"step": 1, "metrics": {}}')]
)
def test_an_invalid_result_is_written_again(tmp_path, uninterrupted, content):
    run = dataclasses.replace(uninterrupted, workdir=tmp_path / "run")
    shutil.copytree(uninterrupted.run_dir, run.run_dir)
    (run.run_dir / "result.json").write_text(content)
    fit(run)
    assert outcome(run) == outcome(uninterrupted)
