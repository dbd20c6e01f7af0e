"""Resuming: invalid lines, missing checksums, moved data, full disks, locks, schedules."""

import contextlib
import dataclasses
import errno
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from lstm_jax.training import start
from lstm_jax.training.checkpointing.checkpoints import steps_in
from lstm_jax.training.checkpointing.run_checkpoints import RunCheckpoints
from lstm_jax.training.cli import main
from lstm_jax.training.config import ConfigError, Data, Optimizer, Sample, Train
from lstm_jax.training.data.tokens import read_tokens
from lstm_jax.training.errors import RunError
from lstm_jax.training.hooks import Console
from lstm_jax.training.inference import evaluate, load
from lstm_jax.training.loop import fit
from lstm_jax.training.optimizer import learning_rate, make_optimizer, make_schedule
from lstm_jax.training.run_dir import RunDir, directory
from lstm_jax.training.run_dir.lock import LOCK, SOFT_LOCK, locked
from lstm_jax.training.run_dir.samples import entry, split
from tests.cases import nightly
from tests.training.checkpointing.test_damage import content
from tests.training.test_kill import everything, silently
from tests.training.test_loop import figures, new_directory, small, text_data
from tests.training.test_reliability import ask_to_stop_in, corrupt, disk, events, whole

__all__ = ["disk", "whole"]  # fixtures
STRICT = False


def stopped(whole, folder, monkeypatch, where="step", after=9):
    """A copy of a run that a signal stopped, by default after step 18 of 24."""
    experiment = dataclasses.replace(whole, workdir=folder)
    with monkeypatch.context() as patch:
        ask_to_stop_in(patch, where, signal.SIGTERM, after)
        fit(experiment)
    return experiment


# checkpoints


def test_without_checksums_a_run_is_resumed_with_a_warning(tmp_path, whole, monkeypatch, capsys):
    """Small files are left out by some tools that copy directories."""
    run = stopped(whole, tmp_path / "run", monkeypatch)
    for path in run.run_dir.glob("*/*/notes"):
        shutil.rmtree(path)
    before = figures(run)
    fit(run)
    printed = capsys.readouterr().out
    assert "resuming from step 18" in printed
    assert printed.count("has no checksums") == 2
    assert figures(run)[: len(before)] == before
    assert everything(run)["best"] == everything(whole)["best"]


def test_where_no_checkpoint_can_be_restored_nothing_is_touched(
    tmp_path, whole, monkeypatch, capsys
):
    run = stopped(whole, tmp_path / "run", monkeypatch)
    for step in steps_in(run.run_dir / "checkpoints"):
        corrupt(run.run_dir / "checkpoints" / str(step))
    before = content(run.run_dir)
    with pytest.raises(ConfigError, match=r"checkpoints.*\b18: .*\b16: .*[Nn]othing was changed"):
        fit(run)
    assert content(run.run_dir) == before


def test_all_models_are_corrupt_and_the_run_makes_one_again(tmp_path, whole, monkeypatch, capsys):
    run = stopped(whole, tmp_path / "run", monkeypatch, "evaluation", 5)  # the report's
    for step in steps_in(run.run_dir / "best"):
        corrupt(run.run_dir / "best" / str(step))
    fit(run)
    assert load(run.run_dir).step == 24
    assert len(list((run.run_dir / "best").glob("*.corrupt"))) == 3
    assert everything(run)["metrics"] == everything(whole)["metrics"]


def killed_when_a_model_is_saved(experiment):
    offer = RunCheckpoints.save_if_best

    def offered(*args):
        offer(*args)
        os.kill(os.getpid(), signal.SIGKILL)

    RunCheckpoints.save_if_best = offered
    silently(experiment)


def test_the_best_model_is_on_the_disk_before_a_line_says_so(tmp_path, whole, monkeypatch):
    """Stopped in the last evaluation, then killed while its model is written."""
    run = stopped(whole, tmp_path / "run", monkeypatch, "evaluation", 4)
    assert figures(run)[-1] == figures(whole)[-2]
    context = multiprocessing.get_context("forkserver")
    child = context.Process(target=killed_when_a_model_is_saved, args=(run,))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    fit(run)
    assert everything(run) == everything(whole)


def test_the_best_model_of_every_checkpoint_is_kept(tmp_path):
    """A resume from the oldest checkpoint has a model of that time, however many came later."""
    many = Train(
        steps=48, log_every=4, eval_every=4, checkpoint_every=16, steps_per_dispatch=4, keep_best=1
    )
    fast = Optimizer(learning_rate=0.03, warmup_steps=0, schedule="constant")
    run = small(tmp_path, train=many, optimizer=fast)
    fit(run)
    models, states = (steps_in(run.run_dir / name) for name in ("best", "checkpoints"))
    assert states == [48, 32]
    assert min(models) <= 32
    for state in states[:1]:
        corrupt(run.run_dir / "checkpoints" / str(state))
    longer = dataclasses.replace(run, train=dataclasses.replace(many, steps=64, patience=1))
    fit(longer)
    losses = [line["eval/loss"] for line in figures(longer) if "eval/loss" in line]
    assert load(run.run_dir).step == 4 * (1 + int(np.argmin(losses)))


def test_a_second_signal_in_the_evaluation_that_a_resume_repeats(tmp_path, whole, monkeypatch):
    run = stopped(whole, tmp_path / "run", monkeypatch, "evaluation", 2)  # after step 12
    for _ in range(2):
        stopped(whole, tmp_path / "run", monkeypatch, "evaluation", 1)
        assert events(run)[-1] == "stopped by SIGTERM"
        assert figures(run)[-1]["step"] == 12
    fit(run)
    assert everything(run) == everything(whole)


def test_fewer_steps_than_were_done(tmp_path, whole, monkeypatch):
    """The checkpoint was not evaluated before, and its step is no multiple of eval_every."""
    run = stopped(whole, tmp_path / "run", monkeypatch, after=2)
    fit(dataclasses.replace(run, train=dataclasses.replace(run.train, steps=2, checkpoint_every=4)))
    assert load(run.run_dir).step == 4


def test_what_other_settings_will_not_make_again_is_renamed(tmp_path, whole, monkeypatch, capsys):
    """A corrupt checkpoint, and a resume from the one before with another learning rate."""
    run = dataclasses.replace(whole, workdir=tmp_path / "run")
    shutil.copytree(whole.run_dir, run.run_dir)
    corrupt(run.run_dir / "checkpoints" / "24")
    slower = dataclasses.replace(run.optimizer, learning_rate=1e-5)
    fit(dataclasses.replace(run, optimizer=slower))
    assert (run.run_dir / "best" / "24.superseded").is_dir()
    later = (run.run_dir / "metrics.jsonl.superseded").read_text().splitlines()
    assert [json.loads(line)["step"] for line in later] == [18, 20, 24, 24]
    assert (run.run_dir / "samples.txt.superseded").read_text().count("=== step ") == 2
    assert (
        "warning: the model of step 24 was trained with other settings" in capsys.readouterr().out
    )


def test_killed_before_what_other_settings_made_is_renamed(tmp_path, whole, monkeypatch):
    """The same command still knows that the settings have changed."""
    experiment = dataclasses.replace(whole, workdir=tmp_path / "run")
    shutil.copytree(whole.run_dir, experiment.run_dir)
    corrupt(experiment.run_dir / "checkpoints" / "24")
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
    shutil.rmtree(path)
    path.write_text("")


def replace_by_dangling_link(path):
    shutil.rmtree(path)
    path.symlink_to("nowhere")


@pytest.mark.parametrize("harm", [shutil.rmtree, replace_by_file, replace_by_dangling_link])
@pytest.mark.parametrize("name", ["checkpoints", "best"])
def test_a_directory_of_checkpoints_that_is_gone(tmp_path, whole, monkeypatch, harm, name):
    run = stopped(whole, tmp_path / "run", monkeypatch)
    harm(run.run_dir / name)
    before = content(run.run_dir)
    if name == "best" and harm is shutil.rmtree:  # they are made again
        fit(run)
        assert load(run.run_dir).step == 24
        return
    with pytest.raises(ConfigError, match=rf"workdir.*{run.run_dir / name}.*--workdir"):
        fit(run)
    assert content(run.run_dir) == before


# metrics and samples


@pytest.mark.parametrize(
    "line", [b"", b"\xff", *nightly(b"garbage", b"[1]", b'{"step": "a"}', b'{"a": 1}')]
)
def test_a_bad_line_of_metrics_is_moved_aside(tmp_path, whole, monkeypatch, capsys, line):
    run = stopped(whole, tmp_path / "run", monkeypatch)
    path = run.run_dir / "metrics.jsonl"
    first, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(first + b"\n" + line + b"\n" + rest)
    fit(run)
    assert figures(run) == figures(whole)
    assert re.search(r"warning: .*metrics\.jsonl.*\b1 invalid line\b", capsys.readouterr().out)
    assert path.with_name("metrics.jsonl.corrupt").read_bytes() == line + b"\n"


def test_a_byte_order_mark_and_an_incomplete_last_line(tmp_path, whole, monkeypatch, capsys):
    run = stopped(whole, tmp_path / "run", monkeypatch)
    path = run.run_dir / "metrics.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b'{"step": 20, "tr')
    fit(run)
    assert figures(run) == figures(whole)
    assert "warning" not in capsys.readouterr().out


def test_samples_that_look_like_headings_and_have_carriage_returns(tmp_path, text, monkeypatch):
    text.write_bytes(text.read_bytes().replace(b". ", b".\r\n=== step 6\r"))
    prompt = Sample(prompt="=== step 12\n\r=== step 5 ", length=20)
    run = small(tmp_path, "run", data=text_data(text), sample=prompt)
    fit(run)
    again = stopped(run, tmp_path / "again", monkeypatch)
    fit(again)
    samples = [(r.run_dir / "samples.txt").read_bytes() for r in (run, again)]
    assert samples[0] == samples[1]
    assert samples[0].count(b"\\=== step 12\n\r=== step 5 ") == 4


def test_an_incomplete_heading_of_a_sample_is_dropped():
    """A full disk cut it off; its step must not be read from it."""
    whole = entry(4, "a").encode()
    for end in range(len(b"=== step 40")):
        assert split(whole + b"=== step 40"[:end], lambda step: step <= 4) == (b"", whole)


@pytest.mark.parametrize("left", [[LOCK], [LOCK, "config.json.new"], [LOCK, SOFT_LOCK]])
def test_killed_while_the_directory_was_created(tmp_path, left):
    run = small(tmp_path)
    run.run_dir.mkdir()
    for name in left:
        (run.run_dir / name).write_text('{"nam' if name == "config.json.new" else "")
    assert fit(run) is not None


# data


def test_data_that_moved_is_found_by_its_content(tmp_path, text, monkeypatch, capsys):
    whole = small(tmp_path, "whole", data=text_data(text))
    fit(whole)
    run = stopped(whole, tmp_path / "run", monkeypatch)
    moved = text.with_name("moved.txt")
    text.rename(moved)
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, path=moved))
    fit(run)
    assert f"data.path was {text}, now {moved}" in capsys.readouterr().out
    assert everything(run) == everything(whole)
    assert "complete" in (fit(run) and capsys.readouterr().out)


@pytest.mark.parametrize("task", ["arrays", "text"])
def test_other_data_in_another_place_is_refused(tmp_path, text, task):
    """Also where only what is trained on differs."""
    if task == "arrays":
        xs = np.random.default_rng(0).standard_normal((30, 5, 2)).astype(np.float32)
        one, other = tmp_path / "one.npz", tmp_path / "other.npz"
        np.savez(one, inputs=xs)
        changed = [xs.copy() for _ in range(30)]
        for n, array in enumerate(changed):
            array[n, 0] += 1
        data = Data(task="arrays", path=one, batch_size=4)
    else:
        one, other = text, text.with_name("other.txt")
        data, changed = text_data(text), None
    run = small(tmp_path, "run", data=data)
    fit(run)
    for n in range(30 if changed else 1):
        if changed:
            np.savez(other, inputs=changed[n])
        else:
            other.write_text(text.read_text().replace("fox", "fix", 1))
        moved = dataclasses.replace(run, data=dataclasses.replace(data, path=other))
        with pytest.raises(ConfigError, match=r"data\.path"):
            fit(moved)


def test_evaluate_takes_the_place_of_the_data(tmp_path, text, capsys):
    run = small(tmp_path, "run", data=text_data(text))
    fit(run)
    lines = list(evaluate(run.run_dir))
    moved = text.rename(text.with_name("moved.txt"))
    with pytest.raises(ConfigError, match=r"data\.path"):
        list(evaluate(run.run_dir))
    capsys.readouterr()
    assert main(["evaluate", str(run.run_dir), "--data.path", str(moved)], moved) == 0
    assert capsys.readouterr().out.splitlines() == lines
    moved.write_text(moved.read_text().upper())
    assert main(["evaluate", str(run.run_dir), "--data.path", str(moved)], moved) == 2


def zero(path):
    path.with_suffix(".ids").write_bytes(bytes(path.with_suffix(".ids").stat().st_size))


def out_of_range(path):
    """Ids and their hash, but of a larger vocabulary."""
    found = json.loads(path.read_text())
    found["symbols"] = found["symbols"][:5]
    path.write_text(json.dumps(found))


def one_symbol(path):
    path.write_text(path.read_text().replace('"q"', '"Q"'))


@pytest.mark.parametrize("harm", [zero, out_of_range, one_symbol])
def test_cached_ids_are_verified(text, cache, monkeypatch, harm):
    first = read_tokens(Data(path=text))
    ids = np.asarray(first.train).tolist()
    (path,) = (cache / "ids").glob("*.json")
    harm(path)
    again = read_tokens(Data(path=text))
    assert np.asarray(again.train).tolist() == ids
    assert again.vocabulary == first.vocabulary


# the schedule


def rates(run):
    lines = figures(run)
    return {m["step"]: m["train/learning_rate"] for m in lines if "train/learning_rate" in m}


@pytest.mark.parametrize("schedule", ["cosine", *nightly("constant", "linear")])
def test_the_learning_rate_is_logged(tmp_path, schedule):
    run = small(tmp_path, optimizer=Optimizer(warmup_steps=2, schedule=schedule))
    fit(run)
    rate = make_schedule(run.optimizer, run.train)
    assert rates(run) == {s: pytest.approx(float(rate(s - 1)), rel=1e-5) for s in range(4, 25, 4)}


@pytest.mark.parametrize("name", ["lion", *nightly("adam", "sgd", "rmsprop")])
def test_the_learning_rate_of_plateaus(tmp_path, name):
    flat = Optimizer(
        name=name, learning_rate=1e-30, warmup_steps=0, schedule="plateau", plateau_patience=1
    )
    run = small(tmp_path, optimizer=flat)
    fit(run)
    logged = list(rates(run).values())
    assert logged[0] == pytest.approx(1e-30)
    assert logged[-1] < 0.6 * logged[0]


def test_the_learning_rate_is_that_of_the_update():
    """Also where a plateau lowers it in this very update."""
    settings = Optimizer(
        name="sgd", learning_rate=0.5, momentum=0.0, warmup_steps=3, schedule="plateau",
        plateau_patience=1, clip_norm=None,
    )  # fmt: skip
    run = Train(steps=30, log_every=2, eval_every=2, checkpoint_every=2, steps_per_dispatch=2)
    optimizer, schedule = make_optimizer(settings, run), make_schedule(settings, run)
    params = {"w": np.ones(1, np.float32)}
    state, logged = optimizer.init(params), []
    for _ in range(12):
        updates, after = optimizer.update(params, state, params, value=1.0)
        logged.append(float(learning_rate(schedule, state, after)))
        assert -float(updates["w"][0]) == pytest.approx(logged[-1])
        state = after
    assert logged[3] == 0.25  # 0.5, halved
    assert 0 < logged[-1] < 0.1


def test_a_jump_of_the_learning_rate_is_said_and_a_flag_avoids_it(tmp_path, capsys):
    run = small(tmp_path)
    fit(run)
    shutil.copytree(run.run_dir, tmp_path / "kept")
    longer = dataclasses.replace(run, train=dataclasses.replace(run.train, steps=48))
    fit(longer)
    said = r"the learning rate at step 24 was 0, now 0\.0032.*--optimizer\.decay-steps 24\b"
    assert re.search(f"changed: {said}", capsys.readouterr().out)
    assert re.search(said, events(run)[2])
    assert rates(longer)[28] > 1e-3

    kept = dataclasses.replace(
        longer,
        workdir=tmp_path / "kept",
        optimizer=dataclasses.replace(run.optimizer, decay_steps=24),
    )
    fit(kept)  # at the end of its schedule
    assert "learning rate" not in capsys.readouterr().out
    assert rates(kept)[48] == 0


def test_decay_steps_needs_a_schedule_that_decays():
    with pytest.raises(ConfigError, match=r"optimizer\.decay_steps.*constant.*\b9\b"):
        Optimizer(schedule="constant", decay_steps=9)
    with pytest.raises(ConfigError, match=r"optimizer\.decay_steps.*\b0\b"):
        Optimizer(decay_steps=0)
    rate = make_schedule(Optimizer(decay_steps=10, warmup_steps=0, schedule="linear"), Train())
    np.testing.assert_allclose([rate(5), rate(10), rate(99)], [3e-3, 0, 0], rtol=1e-6)


# complete runs


def test_a_complete_run_is_not_changed(tmp_path, text, capsys):
    run = small(tmp_path, data=text_data(text))
    result = fit(run)
    before = {
        p: (p.read_bytes(), p.stat().st_mtime_ns) for p in run.run_dir.rglob("*") if p.is_file()
    }
    shown = dataclasses.replace(run, sample=Sample(prompt="fox", length=9))
    capsys.readouterr()
    for again in (run, shown):
        assert fit(again) == result
        assert re.search(
            rf"{run.run_dir} is complete\. Best checkpoint: step \d+", capsys.readouterr().out
        )
    assert before == {
        p: (p.read_bytes(), p.stat().st_mtime_ns) for p in run.run_dir.rglob("*") if p.is_file()
    }


def test_killed_when_a_longer_run_starts_it_is_not_complete(tmp_path, monkeypatch):
    experiment = small(tmp_path)
    fit(experiment)
    longer = dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, steps=32))

    def interrupt():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(directory, "environment", interrupt)  # config.json was just written
        with pytest.raises(KeyboardInterrupt):
            fit(longer)
    fit(longer)
    assert figures(longer)[-1]["step"] == 32


@pytest.mark.parametrize(
    "text_of_result", ["{", *nightly("[]", '{"step": 1}', '{"step": 1, "metrics": {}}')]
)
def test_a_result_that_is_not_one_is_written_again(tmp_path, whole, text_of_result):
    run = dataclasses.replace(whole, workdir=tmp_path / "run")
    shutil.copytree(whole.run_dir, run.run_dir)
    (run.run_dir / "result.json").write_text(text_of_result)
    fit(run)
    assert everything(run) == everything(whole)


# locks


@pytest.mark.parametrize("name", ["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def test_a_file_system_without_locks(tmp_path, monkeypatch, name):
    import fcntl

    def flock(file, operation):
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

    monkeypatch.setattr(fcntl, "flock", flock)
    warnings = []
    (tmp_path / LOCK).touch()  # left by a run on a file system with locks
    with locked(tmp_path, warnings.append):
        assert (tmp_path / SOFT_LOCK).read_text().split("\n")[0] == str(os.getpid())
        with (
            pytest.raises(ConfigError, match=rf"workdir.*\b{os.getpid()}\b.*{SOFT_LOCK}"),
            locked(tmp_path, warnings.append),
        ):
            pass
    assert not (tmp_path / SOFT_LOCK).exists()
    assert os.strerror(getattr(errno, name)) in warnings[0]


def test_a_stale_lock_of_another_host_names_the_file_to_delete(tmp_path, monkeypatch):
    import fcntl

    def flock(file, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / SOFT_LOCK).write_text("99999\nelsewhere\n")
    names = r"workdir.*\b99999\b.*\belsewhere\b.*delete"
    with pytest.raises(ConfigError, match=names) as error, locked(tmp_path, lambda text: None):
        pass
    assert str(tmp_path / SOFT_LOCK) in str(error.value)


def test_any_other_error_of_a_lock_is_not_another_process(tmp_path, monkeypatch):
    import fcntl

    def flock(file, operation):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(ConfigError, match=os.strerror(errno.EIO)):
        fit(small(tmp_path))


def test_the_trainer_can_be_imported_without_fcntl():
    """As on Windows, where filelock has another lock."""
    code = "import sys; sys.modules['fcntl'] = None; import lstm_jax.training.loop"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


# full disks


@pytest.mark.parametrize(
    "name",
    ["task.json.new", "samples.txt", "result.json.new",
     *nightly("config.json.new", "environment.json.new", "vocabulary.json.new", "metrics.jsonl",
              "metrics.jsonl.new", "samples.txt.new", "events.jsonl", "curves.png.new")],
)  # fmt: skip
def test_a_full_disk_at_each_file(tmp_path, whole, monkeypatch, disk, name):
    """The file is a link to one on a full disk."""
    run = stopped(whole, tmp_path / "run", monkeypatch)
    path, before = run.run_dir / name, []
    if name.endswith(".new"):
        full(disk, path)
    else:  # not before: a resume replaces these files
        fill = lambda self, run: before.append(full(disk, path))  # noqa: E731
        monkeypatch.setattr(Console, "on_start", fill)
    with pytest.raises(RunError, match=rf"cannot write.*{os.strerror(errno.ENOSPC)}") as error:
        fit(run)
    assert str(error.value).count("\n") == 0
    if before:
        path.unlink()
        path.write_bytes(*before)
    monkeypatch.undo()
    fit(run)
    assert everything(run) == everything(whole)


def full(disk, path):
    """Moves a file, if there is one, to a full disk, and leaves a link. Returns its content."""
    there, content = disk("size=64k") / path.name, b""
    if path.exists():
        content = path.read_bytes()
        there.write_bytes(content)
        path.unlink()
    path.symlink_to(there)
    for name in ("other", *[there.name][: there.exists()]):  # the last page of the file has room
        with contextlib.suppress(OSError), (there.parent / name).open("ab", buffering=0) as file:
            while True:
                file.write(b"\n" * 4096)
    return content


def test_a_full_disk_before_anything_is_written(tmp_path, disk):
    run = small(tmp_path)
    run.run_dir.mkdir()
    full(disk, run.run_dir / "config.json.new")
    with pytest.raises(RunError, match=os.strerror(errno.ENOSPC)):
        fit(run)
    assert fit(run) is not None


def test_a_full_disk_at_the_best_model(tmp_path, text, monkeypatch, disk):
    large = {"model": dataclasses.replace(small(tmp_path).model, hidden_size=96)}
    whole = small(tmp_path, "whole", data=text_data(text), **large)
    fit(whole)
    run = stopped(whole, tmp_path / "run", monkeypatch, after=2)  # before the first evaluation
    best = run.run_dir / "best"
    best.rmdir()
    best.symlink_to(disk("size=64k"))
    with pytest.raises(RunError, match=rf"{best}.*{os.strerror(errno.ENOSPC)}"):
        fit(run)
    assert not any("eval/loss" in line for line in figures(run))
    best.unlink()
    fit(run)
    assert everything(run) == everything(whole)


def test_a_new_directory_is_written_config_first(tmp_path, monkeypatch):
    run = small(tmp_path)
    new_directory(run)
    assert RunDir(run.run_dir).experiment() == run
