"""Whole runs: the same figures from the same seed, resumed or not, and what they leave behind."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

import lstm_jax.training
from lstm_jax.training.checkpointing.checkpoints import Checkpoints, is_finite
from lstm_jax.training.config import (
    ConfigError,
    Data,
    Experiment,
    Mesh,
    Model,
    Optimizer,
    Sample,
    Train,
)
from lstm_jax.training.config.json import as_json, from_json
from lstm_jax.training.data import make_dataset, text_files, tokens
from lstm_jax.training.errors import NotFiniteError
from lstm_jax.training.inference import evaluate, load
from lstm_jax.training.loop import fit
from lstm_jax.training.metrics import MACHINE
from lstm_jax.training.model import Sizes
from lstm_jax.training.run import Run
from lstm_jax.training.run_dir import RunDir
from tests.cases import nightly

STRICT = False


def small(tmp_path, name="a", **changes):
    """A run of 24 steps; each group can be changed."""
    groups = {
        "model": Model(hidden_size=8, embedding_size=4, dropout=0.2),
        "data": Data(task="adding", sequence_length=6, batch_size=4, eval_sequences=20),
        "optimizer": Optimizer(warmup_steps=2),
        "train": Train(
            steps=24, log_every=4, eval_every=6, checkpoint_every=8, steps_per_dispatch=2
        ),
        "mesh": Mesh(data=1),
        "sample": Sample(prompt="the ", length=20),
    }
    return Experiment(name="small", workdir=tmp_path / name, **groups | changes)


def text_data(text):
    return Data(task="text", path=text, batch_size=4, sequence_length=8, reset_probability=0.2)


def figures(experiment):
    """metrics.jsonl without what depends on the clock."""
    lines = RunDir(experiment.run_dir).metrics()
    return [{k: v for k, v in line.items() if k not in MACHINE} for line in lines]


def new_directory(experiment):
    """A run directory as it is when training starts."""
    folder = RunDir(experiment.run_dir)
    folder.path.mkdir(parents=True)
    folder.start(experiment)


def test_the_same_seed_gives_the_same_figures(tmp_path, text):
    first, again, other = (
        small(tmp_path, name, data=text_data(text)) for name in ("first", "again", "other")
    )
    other = dataclasses.replace(other, seed=1)
    for experiment in (first, again, other):
        fit(experiment)
    assert figures(first) == figures(again) != figures(other)
    samples = [(e.run_dir / "samples.txt").read_text() for e in (first, again)]
    assert samples[0] == samples[1]
    assert samples[0].count("=== step ") == 4


class Stop(Exception):
    pass


@pytest.mark.parametrize(
    "case",
    [
        ("generated", 2),  # nothing was saved yet
        ("text", 20),
        ("arrays", 14),
        *nightly(("generated", 8), ("generated", 14), ("generated", 24), ("text", 10)),
    ],
)
def test_stopped_anywhere_and_resumed_is_as_if_never_stopped(tmp_path, text, monkeypatch, case):
    kind, at = case
    np.savez(tmp_path / "own.npz", inputs=np.random.default_rng(0).standard_normal((30, 5, 2)))
    data = {
        "generated": small(tmp_path).data,
        "text": text_data(text),
        "arrays": Data(task="arrays", path=tmp_path / "own.npz", batch_size=4),
    }[kind]
    whole, stopped = (small(tmp_path, name, data=data) for name in ("whole", "stopped"))
    fit(whole)

    dispatches = Run.batches

    def until(self):
        for done, batches in dispatches(self):
            yield done, batches
            if done == at:
                raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Run, "batches", until)
        if at < 24:
            with pytest.raises(Stop):
                fit(stopped)
    with (
        (stopped.run_dir / "metrics.jsonl").open("a") if at < 24 else open("/dev/null", "w") as file
    ):
        file.write('{"step": 23, "train/lo')  # a kill in the middle of a line
    fit(stopped)
    assert figures(stopped) == figures(whole)
    for name in ("checkpoints", "best"):
        steps = [
            Checkpoints(e.run_dir / name, keep=2, read_only=True).latest() for e in (whole, stopped)
        ]
        assert steps[0] == steps[1]
    params = [jax.tree.leaves(load(e.run_dir).params) for e in (whole, stopped)]
    assert all((a == b).all() for a, b in zip(*params, strict=True))


def test_a_finished_run_is_not_trained_again(tmp_path, capsys):
    experiment = small(tmp_path)
    first = fit(experiment)
    before = figures(experiment)
    assert fit(experiment) == first
    assert figures(experiment) == before
    assert "is complete" in capsys.readouterr().out


def test_a_longer_run_goes_on(tmp_path):
    experiment = small(tmp_path)
    fit(experiment)
    fit(dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, steps=32)))
    assert figures(experiment)[-1]["step"] == 32


def test_going_on_with_other_intervals(tmp_path):
    """A dispatch must not step over the end, or over evaluations."""
    experiment = small(tmp_path)
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


def test_changed_data_is_refused_before_anything_is_written(tmp_path, text):
    experiment = small(tmp_path, data=text_data(text))
    fit(experiment)
    before = {p.name: p.read_bytes() for p in experiment.run_dir.iterdir() if p.is_file()}
    text.write_text(text.read_text().upper(), encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"data\.path.*{experiment.run_dir}"):
        fit(experiment)
    with pytest.raises(ConfigError, match=rf"data\.path.*{experiment.run_dir}"):
        list(evaluate(experiment.run_dir))
    assert {p.name: p.read_bytes() for p in experiment.run_dir.iterdir() if p.is_file()} == before


@pytest.mark.parametrize(
    ("old", "new", "facts"),
    [
        ("fox", "fix", "[^']*$"),  # no symbol is new
        ("quick", "QUick", r".*\b29\b.*\b31\b.*'Q'.*'U'"),
        ("z", "ž", r".*\b29\b.*\b30\b.*'ž'"),
    ],
)
@pytest.mark.parametrize("large", [False, True])
def test_what_of_the_data_has_changed_is_said(tmp_path, text, monkeypatch, old, new, facts, large):
    """Also where all that is evaluated on stayed the same."""
    monkeypatch.setenv("LSTM_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tokens, "LARGE", 0 if large else tokens.LARGE)
    experiment = small(tmp_path, data=text_data(text))
    folder = RunDir(experiment.run_dir)
    dataset = make_dataset(experiment)
    new_directory(experiment)
    folder.model_files.write(
        Sizes(29, 0, 29), dataset.fingerprint(), dataset.vocabulary, pytest.fail
    )
    content = text.read_text()
    text.write_text(content[:200].replace(old, new) + content[200:], encoding="utf-8")
    before = {p.name: p.read_bytes() for p in experiment.run_dir.iterdir()}
    with pytest.raises(ConfigError, match=rf"data\.path.*{experiment.run_dir}{facts}"):
        fit(experiment)
    assert {p.name: p.read_bytes() for p in experiment.run_dir.iterdir()} == before


def test_runs_from_before_the_training_data_was_in_the_fingerprint_go_on(tmp_path, text):
    experiment = small(tmp_path, data=text_data(text))
    dataset = make_dataset(experiment)
    folder = RunDir(experiment.run_dir)
    new_directory(experiment)
    folder.model_files.write(
        Sizes(29, 0, 29), dataset.fingerprint()[:16], dataset.vocabulary, pytest.fail
    )
    folder.model_files.check_data(dataset.fingerprint(), dataset.vocabulary)


def test_a_large_text_is_resumed_without_its_text_being_read(tmp_path, text, monkeypatch):
    monkeypatch.setenv("LSTM_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tokens, "LARGE", 0)
    constant = Optimizer(warmup_steps=2, schedule="constant")
    runs = [small(tmp_path, n, data=text_data(text), optimizer=constant) for n in ("c", "d")]
    fit(runs[0])
    monkeypatch.setattr(text_files, "_raw_blocks", None)  # from here on all comes from the cache
    fit(dataclasses.replace(runs[1], train=dataclasses.replace(runs[1].train, steps=8)))
    fit(runs[1])
    last = [[line for line in figures(run) if line["step"] == 24] for run in runs]
    assert last[0] == last[1]


def test_a_plateau_that_has_seen_no_loss_yet_can_be_saved(tmp_path):
    """Optax's best loss starts at infinity."""
    late = Train(steps=8, log_every=4, eval_every=8, checkpoint_every=4, steps_per_dispatch=4)
    experiment = small(tmp_path, train=late, optimizer=Optimizer(schedule="plateau"))
    fit(experiment)
    assert figures(experiment)[-1]["step"] == 8


def test_the_next_step_must_not_be_read_backward(tmp_path):
    np.savez(tmp_path / "own.npz", inputs=np.random.default_rng(0).standard_normal((30, 5, 2)))
    data = Data(task="arrays", path=tmp_path / "own.npz", batch_size=4)
    both = small(tmp_path, data=data, model=Model(hidden_size=8, bidirectional=True))
    with pytest.raises(ConfigError, match=r"model\.bidirectional"):
        fit(both)
    assert not both.run_dir.exists()


def test_a_prompt_without_a_word(tmp_path, text):
    data = dataclasses.replace(text_data(text), unit="word")
    experiment = small(tmp_path, data=data, sample=Sample(prompt=" "))
    with pytest.raises(ConfigError, match=r"sample\.prompt.*' '"):
        fit(experiment)
    assert not experiment.run_dir.exists()


def test_early_stopping(tmp_path, capsys):
    patient = Train(
        steps=200, log_every=4, eval_every=4, checkpoint_every=4, steps_per_dispatch=4, patience=2
    )
    still = Optimizer(learning_rate=1e-30, warmup_steps=0)
    experiment = small(tmp_path, train=patient, optimizer=still)
    fit(experiment)
    assert figures(experiment)[-1]["step"] == 12  # the first is the best, two are not better
    before = figures(experiment)
    fit(experiment)
    assert figures(experiment) == before
    assert capsys.readouterr().out.count("stopped early: 2 evaluations") == 1


def test_what_a_run_leaves_behind(tmp_path, text):
    experiment = small(tmp_path, data=text_data(text))
    best = fit(experiment)
    folder = experiment.run_dir
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "config.json", "environment.json", "task.json", "vocabulary.json", "metrics.jsonl",
        "samples.txt", "curves.png", "result.json", "checkpoints", "best", "events.jsonl", ".lock",
    }  # fmt: skip
    assert from_json(json.loads((folder / "config.json").read_text())) == experiment
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["packages"]["jax"] == jax.__version__
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    lines = figures(experiment)
    assert [line["step"] for line in lines if "train/loss" in line] == [4, 8, 12, 16, 20, 24]
    held_out = {line["step"]: line["eval/loss"] for line in lines if "eval/loss" in line}
    assert sorted(held_out) == [6, 12, 18, 24]
    assert best["eval/loss"] == pytest.approx(min(held_out.values()), rel=1e-6)
    assert load(folder).step == min(held_out, key=held_out.get)


def test_load_gives_the_model_back(tmp_path, text):
    experiment = small(tmp_path, data=text_data(text))
    fit(experiment)
    saved = lstm_jax.training.load(experiment.run_dir)
    assert saved.config == experiment
    ids = saved.vocabulary.encode("the quick")
    _, logits = saved.model(ids[:, None])
    assert logits.shape == (9, 1, len(saved.vocabulary))
    assert "best checkpoint: step" in next(iter(evaluate(experiment.run_dir)))


def test_a_test_part_is_reported_with_the_best_parameters(tmp_path, capsys):
    rng = np.random.default_rng(0)
    xs, labels = rng.standard_normal((40, 5, 2)), rng.integers(0, 2, 40)
    path = tmp_path / "own.npz"
    np.savez(path, inputs=xs, labels=labels, test_inputs=xs[:9], test_labels=labels[:9])
    experiment = small(tmp_path, data=Data(task="arrays", path=path, batch_size=4))
    figures = fit(experiment)
    assert 0 <= figures["test/accuracy"] <= 1
    assert "  test  " in capsys.readouterr().out
    assert len(list(evaluate(experiment.run_dir))) == 2


def test_only_finite_parameters_are_saved(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    bad = {"w": jax.numpy.array([1.0, np.nan])}
    with pytest.raises(NotFiniteError, match=r"\b7\b.*optimizer\.learning_rate"):
        checkpoints.save(7, bad, bad, {})
    checkpoints.close()
    assert checkpoints.latest() is None
    assert not is_finite({"a": np.array([1.0, np.nan])})
    assert is_finite({"a": np.array([1.0, 2.0]), "n": np.array([3])})


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"model": Model(hidden_size=9)}, r"model\.hidden_size\b.*\b8\b.*\b9\b"),
        ({"seed": 4}, r"\bseed\b.*\b0\b.*\b4\b"),
        ({"name": "other"}, r"\bname\b.*\bsmall\b.*\bother\b"),
        ({"optimizer": Optimizer(name="sgd")}, r"optimizer\.name\b.*\badamw\b.*\bsgd\b"),
    ],
)
def test_a_folder_of_another_experiment_is_refused(tmp_path, change, names):
    experiment = small(tmp_path)
    new_directory(experiment)
    before = {p.name: p.read_bytes() for p in experiment.run_dir.iterdir()}
    with pytest.raises(ConfigError, match=rf"workdir.*{experiment.run_dir}.*{names}"):
        fit(dataclasses.replace(experiment, **change))
    assert {p.name: p.read_bytes() for p in experiment.run_dir.iterdir()} == before


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match=rf"workdir.*{tmp_path / 'a'}"):
        fit(small(tmp_path))
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["thesis.tex"]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=rf"workdir.*{tmp_path}/file/run"):
        fit(small(tmp_path, "file/run"))


def test_bad_data_leaves_no_folder(tmp_path):
    experiment = small(tmp_path, data=Data(task="adding", sequence_length=1))
    with pytest.raises(ConfigError):
        fit(experiment)
    assert not experiment.run_dir.exists()


def test_folders_without_a_model(tmp_path):
    with pytest.raises(ConfigError, match=rf"{tmp_path}.*config\.json"):
        load(tmp_path)
    experiment = small(tmp_path)
    new_directory(experiment)
    with pytest.raises(ConfigError, match=rf"{experiment.run_dir}(?!.*config\.json)"):
        load(experiment.run_dir)
    (experiment.run_dir / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=rf"{experiment.run_dir}/config\.json"):
        load(experiment.run_dir)


def test_an_experiment_survives_json(tmp_path):
    experiment = small(tmp_path, data=Data(task="images", path=Path("data/mnist")))
    assert from_json(as_json(experiment)) == experiment
