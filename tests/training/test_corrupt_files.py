"""Every file of a run directory made corrupt in turn, before ``train``, ``evaluate`` and ``generate``."""

import shutil
import signal
from pathlib import Path

import pytest

from lstm_jax.training.cli import evaluate, generate
from lstm_jax.training.cli import train as train_command
from lstm_jax.training.config import ConfigError
from lstm_jax.training.errors import RunError
from lstm_jax.training.loop import fit
from tests.cases import nightly
from tests.training.runs import (
    TEXT,
    file_contents,
    flip_bit,
    outcome,
    send_signal_during,
    small_config,
    text_data,
)

STRICT = False

NEEDED_BY_TRAIN = ("config.json",)
"""Files without which a run is refused. All others are recovered."""

READ_BY_EVALUATE_AND_GENERATE = ("config.json", "task.json", "vocabulary.json", "best")


def remove(path):
    path.unlink()


def empty(path):
    path.write_bytes(b"")


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """An experiment, a copy of its run directory after step 18 of 24, and the outcome after step 24."""
    parent = tmp_path_factory.mktemp("stopped")
    (parent / "text.txt").write_text(TEXT, encoding="utf-8")
    config = small_config(parent, "run", data=text_data(parent / "text.txt"))
    with pytest.MonkeyPatch.context() as patch:
        send_signal_during(patch, "step", signal.SIGTERM, 9)
        fit(config)
    shutil.copytree(config.run_dir, parent / "copy")
    fit(config)
    return config, parent / "copy", outcome(config)


def exit_code(command, *args):
    """Returns the exit code of a command."""
    try:
        return command(*args)
    except ConfigError:
        return 2
    except RunError:
        return 1


def check(name, make_corrupt, stopped, capsys):
    """Makes one file of the stopped run corrupt, runs the commands, and checks their results."""
    config, copy, expected = stopped
    run_dir = config.run_dir
    shutil.rmtree(run_dir)
    shutil.copytree(copy, run_dir)
    if not (run_dir / name).stat().st_size and make_corrupt is not remove:
        return
    make_corrupt(run_dir / name)
    before = file_contents(run_dir)
    for command in (evaluate, generate):
        code = exit_code(command, [str(run_dir)])
        capsys.readouterr()
        assert code in (0, 1, 2)
        assert code == 0 or Path(name).parts[0] in READ_BY_EVALUATE_AND_GENERATE
    assert file_contents(run_dir) == before  # both commands only read

    code = exit_code(train_command, config)
    capsys.readouterr()
    if code:
        assert name in NEEDED_BY_TRAIN, (name, code)
        assert file_contents(run_dir, exclude=(".lock",)) == {
            k: v for k, v in before.items() if k != ".lock"
        }
        return
    after = outcome(config)
    if not name.startswith("best/"):  # the model that is lost may have been the best
        for key in ("samples", "result", "best"):
            if key == "samples" and name == "samples.txt":
                continue
            assert after[key] == expected[key], (name, key)
        if name != "metrics.jsonl":
            assert after["metrics"] == expected["metrics"], name
    assert exit_code(generate, [str(run_dir)]) == 0
    capsys.readouterr()


@pytest.mark.filterwarnings("ignore:the checkpoint:UserWarning")
@pytest.mark.parametrize("make_corrupt", [flip_bit, *nightly(remove, empty, truncate)])
def test_a_corrupt_file_leaves_the_others_usable(stopped, capsys, make_corrupt):
    _, copy, _ = stopped
    state = max((copy / "checkpoints/18/state/d").iterdir(), key=lambda p: p.stat().st_size)
    names = ["config.json", "task.json", "vocabulary.json", "samples.txt"]
    for name in [*names, str(state.relative_to(copy)), "best/12/notes/metadata"]:
        check(name, make_corrupt, stopped, capsys)


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore:the checkpoint:UserWarning")
@pytest.mark.parametrize("part", range(6))
@pytest.mark.parametrize("make_corrupt", [remove, empty, truncate, flip_bit])
def test_any_corrupt_file_leaves_the_others_usable(stopped, capsys, make_corrupt, part):
    _, copy, _ = stopped
    names = list(file_contents(copy))
    assert len(names) > 50
    for name in names[part::6]:
        check(name, make_corrupt, stopped, capsys)
