"""Trained models: load, evaluate, generate."""

import pytest

import lstm_jax.training
from lstm_jax.training import config
from lstm_jax.training.cli import main
from lstm_jax.training.config import (
    ConfigError,
)
from lstm_jax.training.data.vocabulary import Vocabulary
from lstm_jax.training.inference import evaluate, generate, load
from lstm_jax.training.loop import fit
from tests.training.language_model import graphdef_and_params
from tests.training.runs import (
    corrupt_checkpoint,
    create_run_dir,
    small_config,
    text_data,
)

STRICT = False


def test_load_returns_the_trained_model(tmp_path, text):
    experiment = small_config(tmp_path, data=text_data(text))
    fit(experiment)
    trained = lstm_jax.training.load(experiment.run_dir)
    assert trained.config == experiment
    ids = trained.vocabulary.encode("the quick")
    _, logits = trained.model(ids[:, None])
    assert logits.shape == (9, 1, len(trained.vocabulary))
    assert "best checkpoint: step" in next(iter(evaluate(experiment.run_dir)))


def test_load_needs_a_run_with_a_model(tmp_path):
    with pytest.raises(ConfigError, match=rf"{tmp_path}.*config\.json"):
        load(tmp_path)
    experiment = small_config(tmp_path)
    create_run_dir(experiment)
    with pytest.raises(ConfigError, match=rf"{experiment.run_dir}(?!.*config\.json)"):
        load(experiment.run_dir)
    (experiment.run_dir / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=rf"{experiment.run_dir}/config\.json"):
        load(experiment.run_dir)


def test_load_skips_a_corrupt_best_model(tmp_path):
    experiment = small_config(tmp_path)
    fit(experiment)
    step = load(experiment.run_dir).step
    checkpoint = experiment.run_dir / "best" / str(step)
    corrupt_checkpoint(checkpoint)
    with pytest.warns(UserWarning, match=str(checkpoint)):
        assert load(experiment.run_dir).step < step


def test_evaluate_takes_the_path_of_moved_data(tmp_path, text, capsys):
    run = small_config(tmp_path, "run", data=text_data(text))
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


def test_generation_depends_on_the_seed_and_never_draws_the_unknown_token():
    graphdef, params = graphdef_and_params()
    vocabulary = Vocabulary(("\N{REPLACEMENT CHARACTER}", *"abcdef"))

    def text(seed=0, **keywords):
        sample = config.Sample(
            **{"prompt": "ab", "length": 200, "temperature": 1.0, "seed": seed} | keywords
        )
        return generate(graphdef, params, vocabulary, sample)

    assert text(0) == text(0) != text(1)
    assert text().startswith("ab")
    assert len(text()) == 202
    assert set(text()) == set("abcdef")
    most_likely = text(temperature=1e-4)
    assert most_likely == text(seed=5, temperature=1e-4)
    assert text(top_k=1) == most_likely
    words = Vocabulary(("\N{REPLACEMENT CHARACTER}", *"abcdef"), "word")
    with pytest.raises(config.ConfigError, match=r"prompt.*'  '"):
        generate(graphdef, params, words, config.Sample(prompt="  "))
