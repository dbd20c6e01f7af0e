"""Overrides: sweeps, search spaces, names of run directories, and errors."""

import json
from pathlib import Path

import numpy as np
import pytest

from lstm_jax.training.config import ConfigError, Data, Experiment, Model, Range
from lstm_jax.training.config.overrides import apply, check_names, check_space, folder_name, grid

STRICT = False
BASE = Experiment()


def test_a_grid_is_the_product_in_order():
    rows = grid({"seed": [0, 1], "model.hidden_size": (2, 3)})
    assert [tuple(row.values()) for row in rows] == [(0, 2), (0, 3), (1, 2), (1, 3)]
    assert all(list(row) == ["seed", "model.hidden_size"] for row in rows)


def test_a_list_is_unchanged():
    assert grid([{}, {"seed": 1}]) == [{}, {"seed": 1}]


@pytest.mark.parametrize(
    ("sweep", "names"),
    [
        ({}, r"sweep.*\{\}"),
        ([], r"sweep.*\[\]"),
        ({"seed": []}, r"sweep.*\{'seed': \[\]\}"),
        ({"optimizer.name": "adam"}, r"sweep.*optimizer\.name.*'adam'"),
        ([1, 2], r"sweep.*\[1, 2\]"),
        (3, r"sweep.*\b3\b"),
    ],
)
def test_wrong_sweeps(sweep, names):
    with pytest.raises(ConfigError, match=names):
        grid(sweep)


def test_overrides_reach_all_their_fields_at_once():
    changed = apply(
        BASE,
        {
            "seed": 3,
            "model.tied_embeddings": True,  # neither of these two is valid without the other
            "model.embedding_size": 256,
            "optimizer.learning_rate": 0.1,
        },
    )
    assert (changed.seed, changed.model.embedding_size) == (3, 256)
    assert changed.optimizer.learning_rate == 0.1
    assert changed.data == BASE.data


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ({"model.hidden_size": 1.5}, r"model\.hidden_size.*\b1\.5\b"),
        ({"model.hidden_size": "big"}, r"model\.hidden_size.*\bbig\b"),
        ({"data.path": 5}, r"data\.path.*\b5\b"),
        ({"model.cell": "gru"}, r"model\.cell.*\blstm\b.*\brnn\b.*\bgru\b"),
        ({"seed": True}, r"seed.*\bTrue\b"),
        ({"train.steps": 25}, r"train\.steps\b.*train\.steps_per_dispatch.*\b25\b"),
    ],
)
def test_wrong_values(overrides, names):
    with pytest.raises(ConfigError, match=names):
        apply(BASE, overrides)


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("model.hiden_size", r"model\.hiden_size\b.*model\.hidden_size"),
        ("learning_rate", r"\blearning_rate\b.*optimizer\.learning_rate"),
        ("optimizer.learning-rate", r"optimizer\.learning-rate\b.*optimizer\.learning_rate"),
        ("model", r"\bmodel\b.*\bmodel\.\w+"),
        ("gradient_clipping", r"\bgradient_clipping\b.*--help"),
        ("workdir", r"\bworkdir\b"),
        (3, r"\b3\b"),
    ],
)
def test_unknown_fields(name, names):
    with pytest.raises(ConfigError, match=f"sweep.*{names}"):
        check_names("sweep", [name], BASE, BASE)


def test_a_field_is_set_in_one_place():
    given = apply(BASE, {"model.hidden_size": 7})
    check_names("sweep", ["seed"], given, BASE)
    with pytest.raises(ConfigError, match=r"sweep.*model\.hidden_size"):
        check_names("sweep", ["model.hidden_size"], given, BASE)


def test_names_are_stable_readable_and_safe():
    one = {"optimizer.learning_rate": 3e-3, "model.hidden_size": 128}
    other = dict(reversed(one.items()))
    name = "model.hidden_size=128,optimizer.learning_rate=0.003"
    assert folder_name(one) == folder_name(other) == name
    assert folder_name({"optimizer.clip_norm": 1.0}) == folder_name({"optimizer.clip_norm": 1})
    assert folder_name({"optimizer.clip_norm": None}) == "optimizer.clip_norm=None"
    assert folder_name({}) == "unchanged"
    awkward = folder_name({"data.path": Path("/a b/c"), "sample.prompt": "x=1,y/../é\n\0"})
    assert not set(awkward) & set(" /\n\0é")
    assert awkward.isascii()


def test_no_two_overrides_share_a_name():
    many = [{"sample.prompt": p} for p in ("a", "A", "a,b", "a%2Cb", "a=b", "x" * 300, "x" * 301)]
    many += [{"optimizer.learning_rate": v} for v in (0.1, 0.1 + 1e-15, 1e-30, 1e30, 1, 11)]
    many += [{"sample.prompt": "1,seed=2"}, {"sample.prompt": "1", "seed": 2}]
    names = [folder_name(overrides) for overrides in many]
    assert len(set(names)) == len(many)
    assert max(map(len, names)) < 150


@pytest.mark.parametrize(
    ("space", "names"),
    [
        ({}, r"\{\}"),
        ([], r"\[\]"),
        ({"model.droput": Range(0.0, 0.5)}, r"model\.droput\b.*model\.dropout\b"),
        ({"model.dropout": 0.5}, r"model\.dropout\b.*\bRange\b.*\b0\.5\b"),
        ({"model.dropout": []}, r"model\.dropout\b.*\bRange\b.*\[\]"),
        ({"model.hidden_size": Range(8, 64.5)}, r"model\.hidden_size\b.*\b64\.5\b"),
        ({"model.cell": ["lstm", "gru"]}, r"model\.cell\b.*\blstm\b.*\brnn\b.*'gru'"),
        ({"seed": ["one"]}, r"\bseed\b.*'one'"),
        ({"model.dropout": Range(0.0, 1.5)}, r"model\.dropout\b.*\b1\.5\b"),
        ({"model.hidden_size": [8, 0]}, r"model\.hidden_size\b.*\b0\b"),
    ],
)
def test_wrong_search_spaces(space, names):
    with pytest.raises(ConfigError, match=f"search.*{names}"):
        check_space(space, BASE, BASE)


def test_fields_of_the_same_name_in_two_groups():
    changed = apply(BASE, {"name": "n", "optimizer.name": "sgd"})
    assert (changed.name, changed.optimizer.name) == ("n", "sgd")
    assert (changed.model, changed.data) == (Model(), Data())


def test_numpy_numbers():
    """Also 64.0 for an int, as ``np.logspace`` returns it. Directories are named as for Python numbers."""
    sizes = grid({"model.hidden_size": np.arange(16, 64, 16)})
    assert sizes == grid({"model.hidden_size": [np.int64(16), 32, np.float64(48.0)]})
    assert [folder_name(run) for run in sizes] == [f"model.hidden_size={n}" for n in (16, 32, 48)]
    assert json.loads(json.dumps(sizes)) == sizes
    rates = grid({"optimizer.learning_rate": np.logspace(-3, -2, 3)})
    assert [apply(Experiment(), run).optimizer.learning_rate for run in rates] == [
        run["optimizer.learning_rate"] for run in rates
    ]
    experiment = apply(Experiment(), {"model.hidden_size": np.float64(64.0), "seed": np.int8(3)})
    assert (type(experiment.model.hidden_size), type(experiment.seed)) == (int, int)
    space = check_space({"model.dropout": np.linspace(0, 0.5, 3)}, Experiment(), Experiment())
    assert space == {"model.dropout": [0.0, 0.25, 0.5]}


def test_a_range_of_an_integer_field_is_one_of_integers():
    space = {"model.hidden_size": Range(4.0, 9.0), "model.dropout": Range(0, 0.5)}
    found = check_space(space, Experiment(), Experiment())
    assert [type(end) for r in found.values() for end in (r.low, r.high)] == [
        int,
        int,
        float,
        float,
    ]
