"""Experiments as JSON, and the differences between two."""

import dataclasses
import json
from pathlib import Path

import pytest

from lstm_jax.training.config import (
    ConfigError,
    Data,
    Experiment,
    Log,
    Mesh,
    Model,
    Optimizer,
    Sample,
    Train,
)
from lstm_jax.training.config.json import as_json, differences, from_json

STRICT = False
EVERY_KIND = Experiment(
    name="é",
    seed=3,
    workdir=Path("runs/x"),
    model=Model(hidden_size=8, chrono=5, dropout=0.1),
    data=Data(task="arrays", path=Path("a.npz")),
    optimizer=Optimizer(name="sgd", momentum=0.1, clip_norm=None, learning_rate=1),
    train=Train(patience=3),
    log=Log(profile=(3, 5), wandb="project"),
    mesh=Mesh(coordinator_address="a:1", num_processes=2, process_id=0),
    sample=Sample(prompt="\n", top_k=3),
)


@pytest.mark.parametrize("experiment", [Experiment(), EVERY_KIND], ids=["default", "every kind"])
def test_from_json_is_the_inverse_of_as_json(experiment):
    text = json.dumps(as_json(experiment))
    assert from_json(json.loads(text)) == experiment


def test_missing_fields_have_their_defaults():
    assert from_json({"model": {"hidden_size": 8}}) == Experiment(model=Model(hidden_size=8))


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (3, r"\b3\b"),
        (None, r"\bNone\b"),
        ([], r"\[\]"),
        ("text", r"'text'"),
        (float("nan"), r"\bnan\b"),
        ({"model": 3}, r"^model .*\b3\b"),
        ({"model": {"hidden_size": -3}}, r"^model\.hidden_size must be .*-3"),
        ({"model": {"hidden_size": "8"}}, r"^model\.hidden_size must be .*'8'"),
        ({"model": {"hiden_size": 8}}, r"^model\.hiden_size\b.*\bhidden_size\b"),
        ({"modle": {}}, r"^modle\b.*\bmodel\b"),
        ({"log": {"profile": [1]}}, r"^log\.profile\[1\]"),
        ({"log": {"profile": [1, "a"]}}, r"^log\.profile\[1\] must be .*'a'"),
        ({"data": {"path": "s3://a/b"}}, r"^data\.path .*s3://a/b"),
        ({"data": {"task": "images"}}, r"^data\.path .*'images'"),
        ({"optimizer": {"momentum": 0.9}}, r"^optimizer\.momentum .*'adamw'.*\b0\.9\b"),
        ({"mesh": {"model": 3}}, r"^mesh\.model .*\b256\b.*\b3\b"),
    ],
)
def test_json_of_no_experiment(content, names):
    with pytest.raises(ConfigError, match=names) as raised:
        from_json(content)
    assert "\n" not in str(raised.value)


def test_differences_name_the_field_and_both_values():
    now = dataclasses.replace(EVERY_KIND, seed=4, log=Log(norms=True, profile=(3, 5)))
    changes = differences(EVERY_KIND, now)
    assert list(changes) == ["log.norms", "log.wandb", "seed"]
    assert all(word in changes["log.wandb"] for word in ("project", "None"))
    assert differences(now, now) == {}


def test_a_path_is_restored_from_json():
    experiment = Experiment(data=Data(task="images", path=Path("data/mnist")))
    assert from_json(json.loads(json.dumps(as_json(experiment)))) == experiment
