"""The ``group`` decorator: validation, NumPy numbers, error messages, help."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest

from lstm_jax.training.config import (
    ConfigError,
    Data,
    Experiment,
    Log,
    Model,
    Optimizer,
    Range,
    Sample,
    Train,
)
from lstm_jax.training.config.fields import validated

STRICT = False


def test_a_group_is_a_frozen_dataclass():
    model = Model(hidden_size=8)
    assert dataclasses.asdict(model)["hidden_size"] == 8
    assert dataclasses.replace(model, num_layers=2) == Model(hidden_size=8, num_layers=2)
    assert hash(model) == hash(Model(hidden_size=8))
    for copied in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert copied == model
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.hidden_size = 9
    with pytest.raises(ConfigError, match=r"model\.hidden_size"):
        dataclasses.replace(model, hidden_size=0)


@pytest.mark.parametrize(
    ("group", "fields", "names"),
    [
        (Model, {"hidden_size": 0}, r"^model\.hidden_size must be .*\b0\b"),
        (Model, {"hidden_size": 1.5}, r"^model\.hidden_size must be .*integer.*\b1\.5\b"),
        (Model, {"hidden_size": "8"}, r"^model\.hidden_size must be .*'8'"),
        (Model, {"hidden_size": True}, r"^model\.hidden_size must be .*\bTrue\b"),
        (Model, {"hidden_size": np.float64(64.5)}, r"^model\.hidden_size .*integer"),
        (Model, {"hidden_size": np.bool_(True)}, r"^model\.hidden_size .*integer"),
        (Model, {"hidden_size": np.arange(3)}, r"^model\.hidden_size .*integer"),
        (Model, {"bidirectional": 1}, r"^model\.bidirectional must be .*\b1\b"),
        (Model, {"cell": "gru"}, r"^model\.cell must be .*'lstm' or 'rnn'.*'gru'"),
        (Model, {"dropout": 1.0}, r"^model\.dropout must be less than 1\b.*\b1\.0\b"),
        (Model, {"dropout": -0.1}, r"^model\.dropout must be .*\b0\b.*-0\.1"),
        (Model, {"chrono": 1}, r"^model\.chrono must be .*\b2\b.*\b1\b"),
        (Optimizer, {"learning_rate": float("inf")}, r"^optimizer\.learning_rate must be .*inf"),
        (Optimizer, {"learning_rate": float("nan")}, r"^optimizer\.learning_rate must be .*nan"),
        (Optimizer, {"warmup_steps": -1}, r"^optimizer\.warmup_steps must be .*-1"),
        (Data, {"path": 5}, r"^data\.path must be .*\b5\b"),
        (Sample, {"prompt": ""}, r"^sample\.prompt must .*''"),
        (Log, {"profile": (0, 5)}, r"^log\.profile\[0\] must be .*\b0\b"),
        (Log, {"profile": (5,)}, r"^log\.profile\[1\] "),
        (Log, {"profile": 5}, r"^log\.profile must be .*\b5\b"),
        (Experiment, {"seed": -1}, r"^seed must be .*-1"),
        (Experiment, {"seed": 2**31}, r"^seed must be .*2147483648"),
        (Experiment, {"optimizer": {}}, r"^optimizer must be .*Optimizer.*\{\}"),
    ],
)
def test_wrong_values(group, fields, names):
    with pytest.raises(ConfigError, match=names) as raised:
        group(**fields)
    assert "\n" not in str(raised.value)


def test_all_wrong_fields_are_named():
    with pytest.raises(ConfigError, match=r"model\.cell.*model\.hidden_size"):
        Model(hidden_size=0, cell="gru")


def test_long_values_are_cut():
    with pytest.raises(ConfigError) as raised:
        Model(hidden_size=np.zeros((100, 100)))
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize(
    ("group", "field", "names"),
    [
        (Model, "hiden_size", r"model\.hiden_size\b.*\bhidden_size\b"),
        (Train, "setps", r"train\.setps\b.*\bsteps\b"),
        (Experiment, "sead", r"\bsead\b.*\bseed\b"),
        (Experiment, "zzz", r"^zzz is not a field\.$"),
    ],
)
def test_unknown_fields(group, field, names):
    with pytest.raises(ConfigError, match=names):
        group(**{field: 3})


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ((1.0, 1.0), r"range\.high.*\b1\.0\b"),
        ((0.0, 1.0, True), r"range\.low.*log=True.*\b0\.0\b"),
        (("a", 1.0), r"range\.low.*'a'"),
        ((1,), r"range\.high"),
        ((1, 2, True, 4), r"\b4\b"),
    ],
)
def test_wrong_ranges(values, names):
    with pytest.raises(ConfigError, match=names):
        Range(*values)


def test_numpy_numbers_become_python_numbers():
    model = Model(
        hidden_size=np.float64(64.0),  # as np.logspace returns sizes
        num_layers=np.int8(2),
        dropout=np.float32(0.5),
        bidirectional=np.bool_(True),
        chrono=np.int64(9),
    )
    expected = {
        "hidden_size": 64, "num_layers": 2, "dropout": 0.5, "bidirectional": True, "chrono": 9,
    }  # fmt: skip
    for name, value in expected.items():
        assert getattr(model, name) == value
        assert type(getattr(model, name)) is type(value)
    assert Log(profile=(np.int64(3), np.int64(5))).profile == (3, 5)
    bounds = Range(np.int64(1), np.float32(4.5))
    assert bounds == Range(1, 4.5)
    assert (type(bounds.low), type(bounds.high)) == (int, float)


def test_validated_knows_the_constraints_of_a_field():
    validated(Model, "hidden_size", np.int64(3))
    validated(Model, "embedding_size", 3)  # rules about several fields are not checked
    validated(Experiment, "seed", 3)
    with pytest.raises(ConfigError, match=r"^model\.hidden_size must be .*-3"):
        validated(Model, "hidden_size", -3)
    with pytest.raises(ConfigError, match=r"^seed must be .*'one'"):
        validated(Experiment, "seed", "one")
    with pytest.raises(ConfigError, match=r"^log\.profile\[0\] must be "):
        validated(Log, "profile", (0, 1))


def test_the_docstring_of_every_field_is_its_help():
    for group in dataclasses.fields(Experiment()):
        value = getattr(Experiment(), group.name)
        if not dataclasses.is_dataclass(value):
            continue
        for field in dataclasses.fields(value):
            text = field.metadata["help"]
            assert text.endswith("."), field.name
            assert "\n" not in text, field.name
