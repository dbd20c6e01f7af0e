"""Dry runs: the printed report, and that nothing is written."""

import json
import re
from pathlib import Path

import pytest

from lstm_jax.training.cli import main

STRICT = False
CONFIG = """
from lstm_jax.training.config import *
config = Experiment(
    name="tiny",
    model=Model(hidden_size=16, num_layers=2),
    data=Data(task="adding", sequence_length=12, batch_size=16, eval_sequences=16),
    train=Train(steps=4, log_every=2, eval_every=4, checkpoint_every=4, steps_per_dispatch=2),
    mesh=Mesh(data=4, parameters="sharded"),
)
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """``run(*args)``: the exit code of train.py in an empty directory."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.py").write_text(CONFIG)
    return lambda *args: main(["tiny.py", *args], Path("tiny.py"))


def modification_times():
    return {p: p.stat().st_mtime_ns for p in Path().rglob("*")}


def test_a_dry_run_prints_the_experiment_its_parameters_and_its_memory(run, capsys):
    before = modification_times()
    assert run("--dry-run", "--optimizer.learning-rate", "0.5") == 0
    assert modification_times() == before
    out = capsys.readouterr().out
    resolved, end = json.JSONDecoder().raw_decode(out)
    assert resolved["optimizer"]["learning_rate"] == 0.5
    lines = out[end:].splitlines()
    assert "mesh: data 4 x model 1, parameters sharded" in lines
    size = 2 * 64 + 16 * 64 + 64 + 2 * 16 * 64 + 64 + 16 + 1
    assert f"{size:,} parameters" in lines
    rows = {line.split()[0]: line.split()[1:] for line in lines if "float32" in line}
    assert sum(int(row[row.index("float32") + 1].replace(",", "")) for row in rows.values()) == size
    assert rows["lstm.l0f.w_h"] == ["16", "x", "64", "float32", "1,024", "data,", "-"]
    assert rows["lstm.l1f.bias"] == ["64", "float32", "64"]
    assert any(line.startswith("optimizer state: ") for line in lines)
    assert any(line.startswith("memory per device: ") for line in lines)
    assert "  inside a time loop: none" in lines
    assert lines[-1].endswith("nothing was trained or written to runs/tiny")


def test_a_dry_run_leaves_an_existing_run_unchanged(run, capsys):
    assert run() == 0
    before = modification_times()
    assert run("--dry-run", "--train.steps", "8") == 0
    assert run("--dry-run", "--model.hidden-size", "32") == 2
    assert re.search(
        r"workdir.*runs/tiny.*model\.hidden_size.*\b16\b.*\b32\b", capsys.readouterr().err
    )
    assert modification_times() == before


def test_a_dry_run_of_an_unusable_experiment_exits_with_2(run, capsys):
    assert run("--dry-run", "--data.batch-size", "15") == 2
    assert re.search(r"data\.batch_size.*\b4\b.*\b15\b", capsys.readouterr().err)
    assert not Path("runs").exists()
