"""Config files: what they may define, and how their mistakes are reported."""

import os
import sys
from pathlib import Path

import pytest

from lstm_jax.training.config import ConfigError, Data, Experiment, Range, locate, read_config

STRICT = False
ROOT = Path(__file__).parent.parent.parent.parent
IMPORT = "from lstm_jax.training.config import *\n"


def test_a_config_file_defines_an_experiment_and_perhaps_a_sweep_and_a_search(tmp_path):
    path = tmp_path / "c.py"
    path.write_text(f"{IMPORT}config = Experiment(seed=3)")
    file = read_config(path)
    assert (file.path, file.config, file.sweep, file.search) == (
        path,
        Experiment(seed=3),
        None,
        None,
    )
    path.write_text(
        f"{IMPORT}config = Experiment(); sweep = {{'seed': [1]}}; search = {{'seed': Range(1, 3)}}"
    )
    file = read_config(path)
    assert file.sweep == {"seed": [1]}
    assert file.search == {"seed": Range(1, 3)}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("config = ", r"SyntaxError"),
        ("learning_rate: 0.1", r"config = Experiment"),
        ("import nothing_here", r"line 1\b.*ModuleNotFoundError.*nothing_here"),
        ("settings = 1", r"config = Experiment"),
        ("config = {}", r"config = Experiment.*\bdict\b"),
        ("\0", r"SyntaxError|ValueError"),
        ("\n\n1 / 0", r"line 3\b.*ZeroDivisionError"),
        (
            f"{IMPORT}config = Experiment(model=Model(hiden_size=3))",
            r"line 2\b.*model\.hiden_size\b.*\bhidden_size\b",
        ),
        (f"{IMPORT}config = Experiment(model=Model(cell='gru'))", r"model\.cell.*'gru'"),
        (f"{IMPORT}config = Experiment(train=Train(steps=1000.5))", r"train\.steps.*\b1000\.5\b"),
        (f"{IMPORT}config = Experiment(optimizer={{}})", r"\boptimizer\b.*\{\}"),
    ],
)
def test_config_files_that_cannot_be_used(tmp_path, text, names):
    path = tmp_path / "c.py"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=names) as raised:
        read_config(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("quikstart.py", r"quikstart\.py .*quickstart\.py\?"),
        ("zzz.py", r"zzz\.py not found\.$"),
        ("text.txt", r"--data\.path .*text\.txt"),
        ("s3://bucket/c.py", r"config file .*s3://bucket/c\.py"),
    ],
)
def test_paths_of_no_config_file(tmp_path, monkeypatch, name, names):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart.py").touch()
    (tmp_path / "text.txt").write_text("open('was_run', 'w')")
    with pytest.raises(ConfigError, match=names):
        read_config(Path(name))
    assert not (tmp_path / "was_run").exists()


def test_a_config_imports_a_module_beside_it(tmp_path, monkeypatch):
    """As a script can. ``sys.path`` is restored."""
    (tmp_path / "sizes_beside_it.py").write_text("hidden_size = 7\n")
    config = tmp_path / "mine.py"
    config.write_text(
        f"import sizes_beside_it\n{IMPORT}"
        "config = Experiment(model=Model(hidden_size=sizes_beside_it.hidden_size))\n"
    )
    monkeypatch.chdir(tmp_path.parent)
    before = list(sys.path)
    relative = Path(tmp_path.name) / "mine.py"
    assert read_config(relative).config.model.hidden_size == 7
    assert sys.path == before
    config.write_text("import nothing_of_that_name\n")
    with pytest.raises(ConfigError, match="nothing_of_that_name"):
        read_config(relative)
    assert sys.path == before


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda p: p.name)
def test_every_config_of_the_repository_can_be_read(path):
    assert read_config(path).config.name == path.stem


def test_locate(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").touch()
    located = locate(Experiment(data=Data(path=Path("a.txt"))))
    assert os.fspath(located.data.path) == os.fspath(tmp_path.resolve() / "a.txt")
    for unchanged in (Data(), Data(path=Path("name:text8")), Data(path=Path("hf:a/b"))):
        experiment = Experiment(data=unchanged)
        assert locate(experiment) is experiment
    with pytest.raises(ConfigError, match=r"^data\.path .*nowhere\.txt"):
        locate(Experiment(data=Data(path=Path("nowhere.txt"))))
