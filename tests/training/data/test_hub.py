import re
import sys
import types
from pathlib import Path

import pytest

from lstm_jax.training.cli import main
from lstm_jax.training.config import ConfigError, Data
from lstm_jax.training.data.tokens import read_tokens

STRICT = False
pytestmark = pytest.mark.usefixtures("cache")
ROOT = Path(__file__).parents[3]


class Split(list):
    """Rows of a dataset, in the interface of the package."""

    @property
    def column_names(self):
        return list(self[0])

    def iter(self, batch_size):
        for n in range(0, len(self), batch_size):
            yield {name: [row[name] for row in self[n : n + batch_size]] for name in self[0]}


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the package. Returns the list of its calls."""
    sets = {
        "own/all": {
            name: Split({"text": text, "id": 0} for text in texts)
            for name, texts in {
                "train": ["one two\n", "", "three é"] * 400,
                "validation": ["one"] * 40,
                "test": ["two"] * 20,
            }.items()
        },
        "own/train": {"train": Split([{"text": "a b c d e"}] * 100)},
        "own/images": {"train": Split([{"pixels": 0}])},
        "own/test": {"test": Split([{"text": ""}])},
    }
    calls = []

    def load_dataset(path, config):
        calls.append((path, config))
        if path not in sets:
            raise FileNotFoundError(f"Dataset '{path}' doesn't exist on the Hub.\nMore.")
        return sets[path]

    package = types.ModuleType("datasets")
    package.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", package)
    return calls


def test_a_text_of_the_hub(hub, cache):
    data = Data(path=Path("hf:own/all:plain"), unit="word", batch_size=4, sequence_length=8)
    read = read_tokens(data)
    assert hub == [("own/all", "plain")]
    assert read.vocabulary.symbols == ("\ufffd", "\n", "one", "three", "two", "é")
    assert read.vocabulary.decode(read.train[:7]) == "one two \n \n three é \n"
    assert [len(part) for part in (read.validation, read.test)] == [80, 40]
    again = read_tokens(data)
    assert len(hub) == 1  # from the cache, and so without a network
    assert (again.train == read.train).all()
    assert read.name == "hf:own/all:plain"


def test_a_hub_text_without_other_parts_is_split_nine_to_one(hub):
    read = read_tokens(Data(path=Path("hf:own/train")))
    assert [len(part) for part in (read.train, read.validation, read.test)] == [900, 100, 0]


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("own/none", "'own/none'.*hf:NAME:CONFIG"),
        ("own/images", r"\['pixels'\].*'text'"),
        ("own/test", r"\['test'\].*\btrain\b"),
    ],
)
def test_hub_texts_that_cannot_be_used(name, facts, cache):
    with pytest.raises(ConfigError, match=rf"data\.path.*hf:{name}\b.*{facts}"):
        read_tokens(Data(path=Path(f"hf:{name}")))
    assert not cache.exists()


def test_the_error_without_the_package_names_it(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    flags = ["--data.path", "hf:own/all", "--workdir", str(tmp_path / "run")]
    assert main(flags, default_config=ROOT / "configs" / "quickstart.py") == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert re.search(r"data\.path.*hf:own/all.*\bdatasets\b", printed.err)
    assert not (tmp_path / "run").exists()


def test_a_validation_text_that_an_earlier_version_has_cached(cache):
    directory = cache / "hf" / "own--all"
    directory.mkdir(parents=True)
    (directory / "train.txt").write_text("abc" * 50)
    (directory / "held_out.txt").write_text("cab")
    read = read_tokens(Data(path=Path("hf:own/all")))
    assert [len(part) for part in (read.train, read.validation, read.test)] == [150, 3, 0]
