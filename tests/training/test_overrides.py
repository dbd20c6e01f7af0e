"""Overrides: what a sweep expands to, what its runs are called, and what is said about mistakes."""

from pathlib import Path

import pytest

from lstm_jax.training.config import ConfigError, Data, Experiment, Model, Range
from lstm_jax.training.overrides import apply, check_names, check_space, folder_name, grid

STRICT = False
BASE = Experiment()


def test_a_grid_is_the_product_in_order():
    rows = grid({"seed": [0, 1], "model.hidden_size": (2, 3)})
    assert [tuple(row.values()) for row in rows] == [(0, 2), (0, 3), (1, 2), (1, 3)]
    assert all(list(row) == ["seed", "model.hidden_size"] for row in rows)


def test_a_list_is_as_it_is():
    assert grid([{}, {"seed": 1}]) == [{}, {"seed": 1}]


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({}, "expected at least one run"),
        ([], "expected at least one run"),
        ({"seed": []}, "expected at least one run"),
        ({"optimizer.name": "adam"}, "expected a list of values for optimizer.name, got 'adam'"),
        ([1, 2], r"expected a dict of lists, .* or a list of dicts"),
        (3, r"expected a dict of lists, .*got 3"),
    ],
)
def test_what_is_no_sweep(sweep, message):
    with pytest.raises(ConfigError, match=message):
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
    ("overrides", "message"),
    [
        ({"model.hidden_size": 1.5}, "model.hidden_size: expected int, got 1.5"),
        ({"model.hidden_size": "big"}, "model.hidden_size: expected int, got big"),
        ({"data.path": "a.txt"}, "data.path: expected Path or None, got a.txt"),
        ({"model.cell": "gru"}, "model.cell: expected one of lstm, rnn, got gru"),
        ({"seed": True}, "seed: expected int, got True"),
        ({"train.steps": 25}, "train.steps: expected a multiple"),
    ],
)
@pytest.mark.usefixtures("unannotated")
def test_wrong_values(overrides, message):
    with pytest.raises(ConfigError, match=message):
        apply(BASE, overrides)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.hiden_size", "there is no field model.hiden_size; did you mean model.hidden_size?"),
        ("learning_rate", "did you mean optimizer.learning_rate?"),
        ("optimizer.learning-rate", "did you mean optimizer.learning_rate?"),
        ("model", "there is no field model; did you mean model"),
        ("gradient_clipping", "there is no field gradient_clipping; --help lists them"),
        ("workdir", "each run gets its own"),
        (3, "there is no field 3"),
    ],
)
def test_names_that_are_none(name, message):
    with pytest.raises(ConfigError) as error:
        check_names("sweep", [name], BASE, BASE)
    assert message in str(error.value)


def test_a_field_is_set_in_one_place():
    given = apply(BASE, {"model.hidden_size": 7})
    check_names("sweep", ["seed"], given, BASE)
    with pytest.raises(ConfigError, match="hidden_size is given on the command line too"):
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


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "expected a dict of ranges and lists"),
        ([], "expected a dict of ranges and lists"),
        ({"model.droput": Range(0.0, 0.5)}, "did you mean model.dropout?"),
        ({"model.dropout": 0.5}, "expected a Range or a list for model.dropout, got 0.5"),
        ({"model.dropout": []}, "expected a Range or a list"),
        ({"model.hidden_size": Range(8, 64.5)}, "model.hidden_size: expected int, got 64.5"),
        ({"model.cell": ["lstm", "gru"]}, "model.cell: expected one of lstm, rnn, got 'gru'"),
        ({"seed": ["one"]}, "seed: expected int, got 'one'"),
    ],
)
def test_what_is_no_search_space(space, message):
    with pytest.raises(ConfigError) as error:
        check_space(space, BASE, BASE)
    assert message in str(error.value)


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((1.0, 1.0), "range.high: expected more than low"),
        ((0.0, 1.0, True), "range.low: expected a positive number with log=True, got 0.0"),
        (("a", 1.0), "range.low: expected int or float, got a"),
    ],
)
def test_what_is_no_range(values, message):
    with pytest.raises(ConfigError, match=message):
        Range(*values)


def test_fields_that_are_alike_in_two_groups():
    changed = apply(BASE, {"name": "n", "optimizer.name": "sgd"})
    assert (changed.name, changed.optimizer.name) == ("n", "sgd")
    assert (changed.model, changed.data) == (Model(), Data())
