"""Sweeps: every run once, in its own folder, whatever becomes of the others; one table, one plot."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from lstm_jax.training.cli import main
from lstm_jax.training.metrics import MACHINE
from lstm_jax.training.monitoring import plots
from lstm_jax.training.run_dir import RunDir
from lstm_jax.training.sweeps.child import Children
from tests.training.conftest import stand_in, table_in

STRICT = False
ROOT = Path(__file__).parents[3]
GRID = 'sweep = {"optimizer.learning_rate": [0.01, 0.1], "model.hidden_size": [4, 3]}'
NAMES = [
    f"model.hidden_size={h},optimizer.learning_rate={r}" for r in ("0.01", "0.1") for h in (4, 3)
]


def sweep(path, folder, *args):
    return main([str(path), "--sweep", "--workdir", str(folder), *args], default_config=path)


def test_a_run_of_a_sweep_is_what_it_is_alone(config, tmp_path):
    """The command as it is typed, with training and all."""
    path, folder = config('sweep = {"optimizer.learning_rate": [0.1]}'), tmp_path / "w"
    command = [sys.executable, "train.py", str(path), "--sweep", "--workdir", str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"1 run, 0 complete, 1 remaining; {folder}\n")
    assert table_in(folder)["optimizer.learning_rate=0.1"]["status"] == "complete, **best**"
    assert "| optimizer.learning_rate=0.1 " in result.stdout

    alone = ["--optimizer.learning-rate", "0.1", "--workdir", str(tmp_path / "alone")]
    assert main([str(path), *alone], default_config=path) == 0
    folders = tmp_path / "alone", folder / "optimizer.learning_rate=0.1"
    one, other = (RunDir(folder).metrics() for folder in folders)
    for line in one + other:
        for name in MACHINE:
            line.pop(name, None)
    assert one == other != []


def test_what_a_sweep_leaves_and_that_it_does_nothing_twice(config, tmp_path, ran, capsys):
    path, folder = config(GRID), tmp_path / "w"
    assert sweep(path, folder) == 0
    assert ran == NAMES
    assert {p.name for p in folder.iterdir()} == {"sweep.md", "sweep.png", *NAMES}
    rows = table_in(folder)
    results = {name: json.loads((folder / name / "result.json").read_text()) for name in NAMES}
    losses = {name: result["metrics"]["eval/loss"] for name, result in results.items()}
    best = NAMES[0]  # the first of two that are as good
    for name in NAMES:
        assert rows[name]["validation loss"] == f"{losses[name]:.4f}"
        assert rows[name]["mean squared error"] == f"{losses[name]:.4f}"
        assert rows[name]["time"] == "1:05"
        assert rows[name]["test: mean squared error"] == f"{2 * losses[name]:.4f}"
        assert rows[name]["best step"] == f"{results[name]['step']}"
        assert rows[name]["status"] == "complete" + (", **best**" if name == best else "")
    assert matplotlib.image.imread(folder / "sweep.png").shape[1] == 960
    assert capsys.readouterr().out.startswith("4 runs, 0 complete, 4 remaining")

    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.parent != folder}
    assert sweep(path, folder) == 0
    assert ran == NAMES
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.parent != folder} == before
    assert capsys.readouterr().out.startswith("4 runs, 4 complete, 0 remaining")


def test_a_run_that_was_cut_off_goes_on_and_one_that_was_not_begun_begins(
    config, tmp_path, ran, monkeypatch, capsys
):
    path, folder = config(GRID), tmp_path / "w"

    def cut_off(self, result):
        raise KeyboardInterrupt

    def run(self, experiment):
        with monkeypatch.context() as patch:
            if experiment.run_dir.name == NAMES[1]:
                patch.setattr(RunDir, "finish", cut_off)
            return stand_in(experiment)

    with monkeypatch.context() as patch:
        patch.setattr(Children, "run", run)
        assert sweep(path, folder) == 130
    statuses = [row["status"] for row in table_in(folder).values()]
    assert statuses == ["complete, **best**", "pending", "pending", "pending"]
    capsys.readouterr()
    assert sweep(path, folder) == 0
    assert ran == NAMES[1:]
    assert capsys.readouterr().out.startswith("4 runs, 1 complete, 3 remaining")


def test_a_signal_ends_the_sweep_with_0_and_the_rest_is_left_to_go(
    config, tmp_path, monkeypatch, capsys
):
    def run(self, experiment):
        self.stopped = True
        return "stopped"

    monkeypatch.setattr(Children, "run", run)
    assert sweep(config(GRID), tmp_path / "w") == 0
    statuses = [row["status"] for row in table_in(tmp_path / "w").values()]
    assert statuses == ["stopped", "pending", "pending", "pending"]
    assert "Run the same command to resume" in capsys.readouterr().out


def test_it_goes_on_after_a_run_that_diverged_and_tries_it_again(config, tmp_path, ran):
    path = config('sweep = {"optimizer.learning_rate": [9.0, 0.1]}')
    assert sweep(path, tmp_path / "w") == 1
    statuses = [row["status"] for row in table_in(tmp_path / "w").values()]
    assert statuses == ["diverged", "complete, **best**"]
    assert sweep(path, tmp_path / "w") == 1
    assert ran == [f"optimizer.learning_rate={r}" for r in ("9", "0.1", "9")]


def test_more_runs_and_more_steps(config, tmp_path, ran):
    """What has changed is run, the rest is not."""
    folder = tmp_path / "w"
    assert sweep(config('sweep = {"seed": [0]}'), folder) == 0
    path = config('sweep = {"seed": [0, 1]}')
    assert sweep(path, folder) == 0
    assert ran == ["seed=0", "seed=1"]
    assert sweep(path, folder, "--train.steps", "12") == 0
    assert ran == ["seed=0", "seed=1"] * 2
    assert [RunDir(folder / n).metrics()[-1]["step"] for n in ran[2:]] == [12, 12]


def test_the_command_line_is_for_every_run(config, tmp_path, ran):
    sweep(config('sweep = {"seed": [0, 1]}'), tmp_path / "w", "--model.hidden-size", "5")
    for name in ("seed=0", "seed=1"):
        assert RunDir(tmp_path / "w" / name).experiment().model.hidden_size == 5


def test_without_a_workdir(config, tmp_path, ran, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = config('sweep = {"seed": [0]}')
    assert main([str(path), "--sweep"], default_config=path) == 0
    assert (tmp_path / "runs" / "tiny-sweep" / "seed=0" / "result.json").exists()


def test_it_goes_on_after_a_run_that_cannot_be_run(config, tmp_path, capfd):
    """That a sequence is too short is seen in the run's own process, from the data."""
    path = config('sweep = [{"data.sequence_length": 1}]')
    assert sweep(path, tmp_path / "w") == 1
    assert table_in(tmp_path / "w")["data.sequence_length=1"]["status"] == "cannot be run"
    assert "error: data.sequence_length" in capfd.readouterr().err


def test_one_that_diverged_does_not_flatten_the_others(monkeypatch):
    figures = []
    monkeypatch.setattr(plots.plt, "close", figures.append)
    good = [(f"good {n}", [(10, 0.5), (20, 0.001 + n)], True) for n in range(30)]
    bad = [("bad", [(10, 1e30), (20, math.nan)], False), ("none", [], False)]
    plots.plot_sweep([*good, *bad], "loss")
    ax, (legend,) = figures[0].axes[0], figures[0].legends
    assert [text.get_text() for text in legend.get_texts()] == [f"good {n}" for n in range(24)]
    assert legend.get_title().get_text() == "best first, 8 more not listed"
    assert ax.get_xlim()[0] < 10 < 20 < ax.get_xlim()[1]
    assert ax.get_ylim()[0] < 0.001 < 29.001 < ax.get_ylim()[1] < 100
    assert ax.get_yscale() == "log"
    plots.plot_sweep(bad, "loss")  # nothing better to show
    assert figures[1].axes[0].get_ylim()[1] > 1e29
    monkeypatch.undo()
    plots.plt.close("all")


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(
    ("text", "flags", "names"),
    [
        ("", [], r"--sweep.*c\.py.*sweep = \{'optimizer\.learning_rate': \[1e-3, 3e-3\]\}"),
        ('sweep = {"model.hiden_size": [3]}', [], r"model\.hiden_size\b.*model\.hidden_size\b"),
        (
            'sweep = {"model.hidden_size": [3, 4.5]}',
            [],
            r"model\.hidden_size\b.*model\.hidden_size\b.*\b4\.5\b",
        ),
        (
            'sweep = {"model.cell": ["gru"]}',
            [],
            r"model\.cell\b.*model\.cell\b.*\blstm\b.*\brnn\b.*\bgru\b",
        ),
        (
            'sweep = {"data.path": [Path("nowhere")]}',
            [],
            r"data\.path\b.*data\.path\b.*\bnowhere\b",
        ),
        ('sweep = {"seed": [1]}', ["--seed", "4"], r"\bsweep\b.*\bseed\b"),
        ('sweep = {"seed": [1]}', ["--search", "4"], "--sweep.*--search"),
    ],
)
def test_mistakes_are_seen_before_anything_runs(config, tmp_path, ran, capsys, text, flags, names):
    path = config("from pathlib import Path\n" + text)
    assert sweep(path, tmp_path / "w", *flags) == 2
    printed = capsys.readouterr()
    assert re.search(names, printed.err)
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert not ran
    assert not (tmp_path / "w").exists()


def test_folders_that_are_not_a_sweeps(config, tmp_path, ran, capsys):
    path = config('sweep = {"seed": [0]}')
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "sweep.tex").write_text("years of work")
    assert sweep(path, tmp_path / "thesis") == 2
    assert re.search(f"workdir.*{tmp_path / 'thesis'}", capsys.readouterr().err)
    assert [p.name for p in (tmp_path / "thesis").iterdir()] == ["sweep.tex"]
    (tmp_path / "file").write_text("")
    assert sweep(path, tmp_path / "file" / "w") == 2
    assert re.search(f"workdir.*{tmp_path / 'file' / 'w'}", capsys.readouterr().err)


def test_a_result_counts_for_its_own_experiment_alone(config, tmp_path, ran):
    path, folder = config('sweep = {"seed": [0]}'), tmp_path / "w"
    assert sweep(path, folder) == 0
    run = RunDir(folder / "seed=0")
    experiment = run.experiment()
    assert run.result(experiment) is not None
    run.start(experiment)  # it goes on: it is complete when it says so again
    assert run.result(experiment) is None
    (folder / "seed=0" / "result.json").write_text('{"step": 8, "fig')
    assert run.result(experiment) is None
    assert sweep(path, folder) == 0
    assert run.result(experiment) is not None


def test_the_parent_uses_no_device(config, tmp_path):
    """One process alone can hold a GPU or TPU: it must be the run's."""
    path = config('sweep = {"seed": [0]}')
    script = (
        "import sys; from pathlib import Path; from lstm_jax.training.sweeps.child import Children\n"
        "from lstm_jax.training.cli import main; Children.run = lambda self, experiment: 'failed'\n"
        "assert main(sys.argv[1:], default_config=Path()) == 1\n"
    )
    command = [sys.executable, "-c", script, str(path), "--sweep", "--workdir", str(tmp_path / "w")]
    environment = os.environ | {"JAX_PLATFORMS": "none_such", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_complete_runs_whose_data_moved_stay_complete(config, tmp_path, ran, monkeypatch):
    """Their processes compare the data, and change nothing."""
    np.savez(tmp_path / "a.npz", inputs=np.zeros((30, 5, 2)))
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes())
    path, folder = config('sweep = {"seed": [0, 1]}'), tmp_path / "w"
    flags = ["--data.task", "arrays", "--data.path"]
    assert sweep(path, folder, *flags, str(tmp_path / "a.npz")) == 0
    monkeypatch.setattr(Children, "run", lambda self, experiment: "incomplete")
    assert sweep(path, folder, *flags, str(tmp_path / "b.npz")) == 0
    statuses = {row["status"] for row in table_in(folder).values()}
    assert statuses == {"complete", "complete, **best**"}
    other = np.zeros((30, 5, 2)) + 1
    np.savez(tmp_path / "b.npz", inputs=other)
    monkeypatch.setattr(Children, "run", lambda self, experiment: "cannot be run")
    assert sweep(path, folder, *flags, str(tmp_path / "b.npz")) == 1
