"""The rules that relate the fields of an experiment, and those that come from the tables."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import pytest

from lstm_jax.training import registry
from lstm_jax.training.config import (
    ConfigError,
    Data,
    Experiment,
    Log,
    Mesh,
    Model,
    Optimizer,
    Train,
    schema,
)

STRICT = False


@pytest.mark.parametrize(
    ("group", "fields", "names"),
    [
        (Model, {"tied_embeddings": True}, r"model\.embedding_size .*\b256\b.*\b64\b"),
        (Train, {"steps": 25}, r"train\.steps .*train\.steps_per_dispatch.*\b10\b.*\b25\b"),
        (Train, {"log_every": 25}, r"train\.log_every .*train\.steps_per_dispatch"),
        (Train, {"eval_every": 25}, r"train\.eval_every .*train\.steps_per_dispatch"),
        (
            Train,
            {"log_every": 30, "checkpoint_every": 40},
            r"train\.checkpoint_every .*train\.log_every.*\b30\b.*\b40\b",
        ),
        (Log, {"profile": (5, 4)}, r"log\.profile .*\(5, 4\)"),
        (
            Optimizer,
            {"schedule": "constant", "decay_steps": 9},
            r"optimizer\.decay_steps .*'constant'.*\b9\b",
        ),
        (Mesh, {"num_processes": 2}, r"mesh\.num_processes .*mesh\.coordinator_address.*\b2\b"),
        (Mesh, {"process_id": 0}, r"mesh\.process_id .*mesh\.coordinator_address.*\b0\b"),
        (Mesh, {"coordinator_address": "a:1"}, r"mesh\.num_processes .*\ba:1\b"),
        (
            Mesh,
            {"coordinator_address": "auto", "num_processes": 2},
            r"mesh\.num_processes .*\bauto\b",
        ),
        (
            Mesh,
            {"coordinator_address": "a:1", "num_processes": 2, "process_id": 2},
            r"mesh\.process_id .*mesh\.num_processes.*\b2\b",
        ),
        (Experiment, {"mesh": Mesh(model=3)}, r"mesh\.model .*model\.hidden_size.*256.*\b3\b"),
        (
            Experiment,
            {
                "model": Model(tied_embeddings=True, embedding_size=256),
                "data": Data(task="adding"),
            },
            r"model\.tied_embeddings .*'adding'",
        ),
    ],
)
def test_fields_that_contradict_each_other(group, fields, names):
    with pytest.raises(ConfigError, match=f"^{names}") as raised:
        group(**fields)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("name", "task"), registry.TASKS.items())
def test_the_rules_of_a_task_are_those_of_its_row(name, task):
    if task.needs_path:
        with pytest.raises(ConfigError, match=rf"^data\.path .*'{name}'"):
            Data(task=name)
    data = Data(task=name, path=Path("data") if task.needs_path else None)
    model = Model(bidirectional=True)
    if task.predicts_next is True:
        with pytest.raises(ConfigError, match=rf"^model\.bidirectional .*'{name}'"):
            Experiment(data=data, model=model)
    else:
        assert Experiment(data=data, model=model).model.bidirectional


ARGUMENTS = {"b1": 0.5, "b2": 0.5, "eps": 1e-5, "momentum": 0.5, "weight_decay": 0.5}


@pytest.mark.parametrize("argument", ARGUMENTS)
@pytest.mark.parametrize(("name", "rule"), registry.OPTIMIZERS.items())
def test_an_optimizer_takes_the_arguments_of_its_row(name, rule, argument):
    value = ARGUMENTS[argument]
    if argument in rule.arguments:
        assert getattr(Optimizer(name=name, **{argument: value}), argument) == value
    else:
        with pytest.raises(ConfigError, match=rf"^optimizer\.{argument} .*'{name}'.*{value}"):
            Optimizer(name=name, **{argument: value})
        default = {f.name: f.default for f in dataclasses.fields(Optimizer())}[argument]
        Optimizer(name=name, **{argument: default})


def test_a_new_task_or_optimizer_is_one_row(monkeypatch):
    monkeypatch.setitem(registry.TASKS, "mine", registry.Task("here:mine", needs_path=True))
    monkeypatch.setitem(
        registry.OPTIMIZERS, "adan", registry.OptimizerFactory("here:adan", ("b1",))
    )
    spec = importlib.util.spec_from_file_location("schema_with_new_rows", schema.__file__)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    assert module.Data(task="mine", path=Path("data")).task == "mine"
    with pytest.raises(ConfigError, match=r"^data\.path .*'mine'"):
        module.Data(task="mine")
    assert module.Optimizer(name="adan", b1=0.5).b1 == 0.5
    with pytest.raises(ConfigError, match=r"^optimizer\.momentum .*'adan'"):
        module.Optimizer(name="adan", momentum=0.5)
