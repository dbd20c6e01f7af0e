"""Each file of a run directory made corrupt in turn, then ``train``, ``evaluate`` and ``generate``."""

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
from tests.training.test_kill import everything
from tests.training.test_loop import small, text_data
from tests.training.test_reliability import ask_to_stop_in

STRICT = False
NEEDED_BY_TRAIN = ("config.json",)
"""Without them a run is refused; everything else is recovered."""
READ_BY_OTHERS = ("config.json", "task.json", "vocabulary.json", "best")


def remove(path):
    path.unlink()


def empty(path):
    path.write_bytes(b"")


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    if content:
        content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that was stopped after step 18 of 24, and what the complete run leaves behind."""
    folder = tmp_path_factory.mktemp("damage")
    path = folder / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 60, encoding="utf-8")
    experiment = small(folder, "run", data=text_data(path))
    with pytest.MonkeyPatch.context() as patch:
        ask_to_stop_in(patch, "step", signal.SIGTERM, 9)
        fit(experiment)
    shutil.copytree(experiment.run_dir, folder / "kept")
    fit(experiment)
    return experiment, folder / "kept", everything(experiment)


def content(folder, but=()):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files if p.name not in but}


def run(command, *args):
    """The exit code of a command, as the command line has it."""
    try:
        return command(*args)
    except ConfigError:
        return 2
    except RunError:
        return 1


def check(name, harm, experiment, kept, whole, capsys):
    """Damages a file of a copy, and runs the commands."""
    folder = experiment.run_dir
    shutil.rmtree(folder)
    shutil.copytree(kept, folder)
    if not (folder / name).stat().st_size and harm is not remove:
        return
    harm(folder / name)
    before = content(folder)
    outputs = []
    for command in (evaluate, generate):
        code = run(command, [str(folder)])
        outputs.append(capsys.readouterr().out)
        assert code in (0, 1, 2)
        assert code == 0 or Path(name).parts[0] in READ_BY_OTHERS
    assert content(folder) == before  # they only read

    code = run(train_command, experiment)
    capsys.readouterr()
    if code:
        assert name in NEEDED_BY_TRAIN, (name, code)
        assert content(folder, but=(".lock",)) == {k: v for k, v in before.items() if k != ".lock"}
        return
    after = everything(experiment)
    if not name.startswith("best/"):  # an evaluation whose model is lost may have been the best
        for key in ("samples", "result", "best"):
            if key == "samples" and name == "samples.txt":
                continue
            assert after[key] == whole[key], (name, key)
        if name != "metrics.jsonl":
            assert after["metrics"] == whole["metrics"], name
    assert run(generate, [str(folder)]) == 0
    capsys.readouterr()


@pytest.mark.filterwarnings("ignore:the checkpoint:UserWarning")
@pytest.mark.parametrize("harm", [flip, *nightly(remove, empty, cut)])
def test_a_damaged_file_costs_nothing_else(stopped, capsys, harm):
    experiment, kept, whole = stopped
    state = max(
        (p for p in (kept / "checkpoints/18/state/d").iterdir()), key=lambda p: p.stat().st_size
    )
    names = ["config.json", "task.json", "vocabulary.json", "samples.txt"]
    for name in [*names, str(state.relative_to(kept)), "best/12/notes/metadata"]:
        check(name, harm, experiment, kept, whole, capsys)


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore:the checkpoint:UserWarning")
@pytest.mark.parametrize("part", range(6))
@pytest.mark.parametrize("harm", [remove, empty, cut, flip])
def test_any_damaged_file_costs_nothing_else(stopped, capsys, harm, part):
    experiment, kept, whole = stopped
    names = list(content(kept))
    assert len(names) > 50
    for name in names[part::6]:
        check(name, harm, experiment, kept, whole, capsys)
