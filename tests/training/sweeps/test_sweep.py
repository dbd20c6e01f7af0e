"""Sweeps: runs, resumed and failed runs, the table and the plot."""

import json
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
from lstm_jax.training.run_dir import RunDir
from lstm_jax.training.sweeps.child import Children
from tests.training.sweeps.fake_runs import fake_run, read_table

STRICT = False
ROOT = Path(__file__).parents[3]
GRID = 'sweep = {"optimizer.learning_rate": [0.01, 0.1], "model.hidden_size": [4, 3]}'
NAMES = [
    f"model.hidden_size={h},optimizer.learning_rate={r}" for r in ("0.01", "0.1") for h in (4, 3)
]


def sweep(path, workdir, *args):
    """Returns the exit code of a sweep."""
    return main([str(path), "--sweep", "--workdir", str(workdir), *args], default_config=path)


def test_a_run_of_a_sweep_equals_the_run_alone(write_config, tmp_path):
    path, workdir = write_config('sweep = {"optimizer.learning_rate": [0.1]}'), tmp_path / "w"
    command = [sys.executable, "train.py", str(path), "--sweep", "--workdir", str(workdir)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"1 run, 0 complete, 1 remaining; {workdir}\n")
    assert read_table(workdir)["optimizer.learning_rate=0.1"]["status"] == "complete, **best**"
    assert "| optimizer.learning_rate=0.1 " in result.stdout

    alone = ["--optimizer.learning-rate", "0.1", "--workdir", str(tmp_path / "alone")]
    assert main([str(path), *alone], default_config=path) == 0
    run_dirs = tmp_path / "alone", workdir / "optimizer.learning_rate=0.1"
    one, other = (RunDir(run_dir).metrics() for run_dir in run_dirs)
    for line in one + other:
        for name in MACHINE:
            line.pop(name, None)
    assert one == other != []


def test_a_complete_sweep_is_not_run_again(write_config, tmp_path, trained, capsys):
    path, workdir = write_config(GRID), tmp_path / "w"
    assert sweep(path, workdir) == 0
    assert trained == NAMES
    assert {p.name for p in workdir.iterdir()} == {"sweep.md", "sweep.png", *NAMES}
    rows = read_table(workdir)
    results = {name: json.loads((workdir / name / "result.json").read_text()) for name in NAMES}
    losses = {name: result["metrics"]["eval/loss"] for name, result in results.items()}
    best = NAMES[0]  # the first of two runs with the same loss
    for name in NAMES:
        assert rows[name]["validation loss"] == f"{losses[name]:.4f}"
        assert rows[name]["mean squared error"] == f"{losses[name]:.4f}"
        assert rows[name]["time"] == "1:05"
        assert rows[name]["test: mean squared error"] == f"{2 * losses[name]:.4f}"
        assert rows[name]["best step"] == f"{results[name]['step']}"
        assert rows[name]["status"] == "complete" + (", **best**" if name == best else "")
    assert matplotlib.image.imread(workdir / "sweep.png").shape[1] == 960
    assert capsys.readouterr().out.startswith("4 runs, 0 complete, 4 remaining")

    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.parent != workdir}
    assert sweep(path, workdir) == 0
    assert trained == NAMES
    assert {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.parent != workdir} == before
    assert capsys.readouterr().out.startswith("4 runs, 4 complete, 0 remaining")


def test_an_interrupted_sweep_trains_the_remaining_runs(
    write_config, tmp_path, trained, monkeypatch, capsys
):
    path, workdir = write_config(GRID), tmp_path / "w"

    def interrupt(self, result):
        raise KeyboardInterrupt

    def run(self, experiment):
        with monkeypatch.context() as patch:
            if experiment.run_dir.name == NAMES[1]:
                patch.setattr(RunDir, "finish", interrupt)
            return fake_run(experiment)

    with monkeypatch.context() as patch:
        patch.setattr(Children, "run", run)
        assert sweep(path, workdir) == 130
    statuses = [row["status"] for row in read_table(workdir).values()]
    assert statuses == ["complete, **best**", "pending", "pending", "pending"]
    capsys.readouterr()
    assert sweep(path, workdir) == 0
    assert trained == NAMES[1:]
    assert capsys.readouterr().out.startswith("4 runs, 1 complete, 3 remaining")


def test_a_signal_stops_the_sweep_with_exit_code_0(write_config, tmp_path, monkeypatch, capsys):
    def run(self, experiment):
        self.stopped = True
        return "stopped"

    monkeypatch.setattr(Children, "run", run)
    assert sweep(write_config(GRID), tmp_path / "w") == 0
    statuses = [row["status"] for row in read_table(tmp_path / "w").values()]
    assert statuses == ["stopped", "pending", "pending", "pending"]
    assert "Run the same command to resume" in capsys.readouterr().out


def test_a_sweep_continues_after_a_diverged_run_and_repeats_it(write_config, tmp_path, trained):
    path = write_config('sweep = {"optimizer.learning_rate": [9.0, 0.1]}')
    assert sweep(path, tmp_path / "w") == 1
    statuses = [row["status"] for row in read_table(tmp_path / "w").values()]
    assert statuses == ["diverged", "complete, **best**"]
    assert sweep(path, tmp_path / "w") == 1
    assert trained == [f"optimizer.learning_rate={r}" for r in ("9", "0.1", "9")]


def test_only_new_and_changed_runs_are_trained(write_config, tmp_path, trained):
    workdir = tmp_path / "w"
    assert sweep(write_config('sweep = {"seed": [0]}'), workdir) == 0
    path = write_config('sweep = {"seed": [0, 1]}')
    assert sweep(path, workdir) == 0
    assert trained == ["seed=0", "seed=1"]
    assert sweep(path, workdir, "--train.steps", "12") == 0
    assert trained == ["seed=0", "seed=1"] * 2
    assert [RunDir(workdir / n).metrics()[-1]["step"] for n in trained[2:]] == [12, 12]


def test_flags_apply_to_every_run(write_config, tmp_path, trained):
    sweep(write_config('sweep = {"seed": [0, 1]}'), tmp_path / "w", "--model.hidden-size", "5")
    for name in ("seed=0", "seed=1"):
        assert RunDir(tmp_path / "w" / name).experiment().model.hidden_size == 5


def test_the_default_workdir_of_a_sweep(write_config, tmp_path, trained, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_config('sweep = {"seed": [0]}')
    assert main([str(path), "--sweep"], default_config=path) == 0
    assert (tmp_path / "runs" / "tiny-sweep" / "seed=0" / "result.json").exists()


def test_a_sweep_continues_after_an_unusable_run(write_config, tmp_path, capfd):
    """The sequence length is checked against the data, in the process of the run."""
    path = write_config('sweep = [{"data.sequence_length": 1}]')
    assert sweep(path, tmp_path / "w") == 1
    assert read_table(tmp_path / "w")["data.sequence_length=1"]["status"] == "cannot be run"
    assert "error: data.sequence_length" in capfd.readouterr().err


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
def test_mistakes_are_refused_before_anything_runs(
    write_config, tmp_path, trained, capsys, text, flags, names
):
    path = write_config("from pathlib import Path\n" + text)
    assert sweep(path, tmp_path / "w", *flags) == 2
    printed = capsys.readouterr()
    assert re.search(names, printed.err)
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert not trained
    assert not (tmp_path / "w").exists()


def test_a_directory_that_holds_no_sweep_is_refused(write_config, tmp_path, trained, capsys):
    path = write_config('sweep = {"seed": [0]}')
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "sweep.tex").write_text("text")
    assert sweep(path, tmp_path / "thesis") == 2
    assert re.search(f"workdir.*{tmp_path / 'thesis'}", capsys.readouterr().err)
    assert [p.name for p in (tmp_path / "thesis").iterdir()] == ["sweep.tex"]
    (tmp_path / "file").write_text("")
    assert sweep(path, tmp_path / "file" / "w") == 2
    assert re.search(f"workdir.*{tmp_path / 'file' / 'w'}", capsys.readouterr().err)


def test_only_a_valid_result_of_the_same_experiment_counts(write_config, tmp_path, trained):
    path, workdir = write_config('sweep = {"seed": [0]}'), tmp_path / "w"
    assert sweep(path, workdir) == 0
    run = RunDir(workdir / "seed=0")
    experiment = run.experiment()
    assert run.result(experiment) is not None
    run.start(experiment)  # it is resumed, and incomplete until it writes a result
    assert run.result(experiment) is None
    (workdir / "seed=0" / "result.json").write_text('{"step": 8, "met')
    assert run.result(experiment) is None
    assert sweep(path, workdir) == 0
    assert run.result(experiment) is not None


def test_the_parent_uses_no_device(write_config, tmp_path):
    """Only one process can use a GPU or TPU, and runs need it."""
    path = write_config('sweep = {"seed": [0]}')
    script = (
        "import sys; from pathlib import Path; from lstm_jax.training.sweeps.child import Children\n"
        "from lstm_jax.training.cli import main; Children.run = lambda self, experiment: 'failed'\n"
        "assert main(sys.argv[1:], default_config=Path()) == 1\n"
    )
    command = [sys.executable, "-c", script, str(path), "--sweep", "--workdir", str(tmp_path / "w")]
    environment = os.environ | {"JAX_PLATFORMS": "none_such", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_complete_runs_whose_data_moved_stay_complete(write_config, tmp_path, trained, monkeypatch):
    """The processes of the runs compare the data, and change nothing."""
    np.savez(tmp_path / "a.npz", inputs=np.zeros((30, 5, 2)))
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes())
    path, workdir = write_config('sweep = {"seed": [0, 1]}'), tmp_path / "w"
    flags = ["--data.task", "arrays", "--data.path"]
    assert sweep(path, workdir, *flags, str(tmp_path / "a.npz")) == 0
    monkeypatch.setattr(Children, "run", lambda self, experiment: "incomplete")
    assert sweep(path, workdir, *flags, str(tmp_path / "b.npz")) == 0
    statuses = {row["status"] for row in read_table(workdir).values()}
    assert statuses == {"complete", "complete, **best**"}
    other = np.zeros((30, 5, 2)) + 1
    np.savez(tmp_path / "b.npz", inputs=other)
    monkeypatch.setattr(Children, "run", lambda self, experiment: "cannot be run")
    assert sweep(path, workdir, *flags, str(tmp_path / "b.npz")) == 1
