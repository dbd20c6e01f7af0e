"""task.json and vocabulary.json: detection of changed data."""

import pytest

from lstm_jax.training.config import (
    ConfigError,
)
from lstm_jax.training.data import make_dataset, tokens
from lstm_jax.training.data.vocabulary import Vocabulary
from lstm_jax.training.inference import evaluate
from lstm_jax.training.loop import fit
from lstm_jax.training.model import Sizes
from lstm_jax.training.run_dir import RunDir
from lstm_jax.training.run_dir.model_files import ModelFiles
from tests.training.runs import create_run_dir, file_contents, small_config, text_data

STRICT = False


def test_changed_data_is_refused_before_anything_is_written(tmp_path, text):
    experiment = small_config(tmp_path, data=text_data(text))
    fit(experiment)
    before = file_contents(experiment.run_dir)
    text.write_text(text.read_text().upper(), encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"data\.path.*{experiment.run_dir}"):
        fit(experiment)
    with pytest.raises(ConfigError, match=rf"data\.path.*{experiment.run_dir}"):
        list(evaluate(experiment.run_dir))
    assert file_contents(experiment.run_dir) == before


@pytest.mark.parametrize(
    ("old", "new", "facts"),
    [
        ("fox", "fix", "[^']*$"),  # the vocabulary is the same
        ("quick", "QUick", r".*\b29\b.*\b31\b.*'Q'.*'U'"),
        ("z", "ž", r".*\b29\b.*\b30\b.*'ž'"),
    ],
)
@pytest.mark.parametrize("large", [False, True])
def test_the_error_for_changed_data_names_the_changed_tokens(
    tmp_path, text, monkeypatch, old, new, facts, large
):
    """Detects a change of the training data alone, too."""
    monkeypatch.setenv("LSTM_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tokens, "LARGE", 0 if large else tokens.LARGE)
    experiment = small_config(tmp_path, data=text_data(text))
    run_dir = RunDir(experiment.run_dir)
    dataset = make_dataset(experiment)
    create_run_dir(experiment)
    run_dir.model_files.write(
        Sizes(29, 0, 29), dataset.fingerprint(), dataset.vocabulary, pytest.fail
    )
    content = text.read_text()
    text.write_text(content[:200].replace(old, new) + content[200:], encoding="utf-8")
    before = file_contents(experiment.run_dir)
    with pytest.raises(ConfigError, match=rf"data\.path.*{experiment.run_dir}{facts}"):
        fit(experiment)
    assert file_contents(experiment.run_dir) == before


def test_a_fingerprint_of_an_earlier_version_is_accepted(tmp_path, text):
    experiment = small_config(tmp_path, data=text_data(text))
    dataset = make_dataset(experiment)
    run_dir = RunDir(experiment.run_dir)
    create_run_dir(experiment)
    run_dir.model_files.write(
        Sizes(29, 0, 29), dataset.fingerprint()[:16], dataset.vocabulary, pytest.fail
    )
    run_dir.model_files.check_data(dataset.fingerprint(), dataset.vocabulary)


def test_model_files_are_read_as_they_were_written(tmp_path):
    model_files = ModelFiles(tmp_path)
    assert not model_files.is_readable()
    with pytest.raises(ConfigError, match=r"task\.json is missing"):
        model_files.sizes()
    vocabulary = Vocabulary.of("abc")
    model_files.write(Sizes(4, 0, 4), "f" * 32, vocabulary, pytest.fail)
    assert model_files.is_readable()
    model_files.check_complete()
    assert (model_files.sizes(), model_files.vocabulary()) == (Sizes(4, 0, 4), vocabulary)


def test_a_corrupt_model_file_is_renamed_and_written_again(tmp_path):
    model_files = ModelFiles(tmp_path)
    model_files.write(Sizes(4, 0, 4), "f" * 32, None, pytest.fail)
    path = tmp_path / "task.json"
    path.write_text(path.read_text().replace("4", "5", 1))
    assert not model_files.is_readable()
    warnings = []
    model_files.write(Sizes(4, 0, 4), "f" * 32, None, warnings.append)
    assert model_files.sizes() == Sizes(4, 0, 4)
    assert (tmp_path / "task.json.corrupt").exists()
    assert str(path) in warnings[0]
