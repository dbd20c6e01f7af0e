"""Checks before a run starts."""

import dataclasses
import re

import numpy as np
import pytest

from lstm_jax.training.config import (
    ConfigError,
    Data,
    Model,
    Sample,
)
from lstm_jax.training.loop import fit
from lstm_jax.training.run_dir import RunDir
from lstm_jax.training.start import print_result
from tests.training.runs import (
    small_config,
    text_data,
)

STRICT = False


def test_a_bidirectional_model_cannot_predict_next_steps(tmp_path):
    np.savez(tmp_path / "own.npz", inputs=np.random.default_rng(0).standard_normal((30, 5, 2)))
    data = Data(task="arrays", path=tmp_path / "own.npz", batch_size=4)
    experiment = small_config(tmp_path, data=data, model=Model(hidden_size=8, bidirectional=True))
    with pytest.raises(ConfigError, match=r"model\.bidirectional"):
        fit(experiment)
    assert not experiment.run_dir.exists()


def test_a_prompt_must_hold_a_word(tmp_path, text):
    data = dataclasses.replace(text_data(text), unit="word")
    experiment = small_config(tmp_path, data=data, sample=Sample(prompt=" "))
    with pytest.raises(ConfigError, match=r"sample\.prompt.*' '"):
        fit(experiment)
    assert not experiment.run_dir.exists()


def test_print_result_says_how_to_continue(tmp_path, capsys):
    result = {"step": 2400, "metric": "bits", "metrics": {"eval/bits": 1.5, "eval/loss": 1.04}}
    print_result(RunDir(tmp_path, writes=False), result)
    assert capsys.readouterr().out == ""
    print_result(RunDir(tmp_path), result)
    (line,) = capsys.readouterr().out.splitlines()
    assert re.search(
        rf"{tmp_path} is complete.*step 2,400.*1\.0400.*1\.5000.*--train\.steps.*--workdir", line
    )
