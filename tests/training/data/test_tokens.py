"""Large texts: encoded once into the cache, memory-mapped, equal to what is read in memory."""

import errno
import json
import os
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from lstm_jax.training.cli import main
from lstm_jax.training.config import ConfigError, Data
from lstm_jax.training.data import corpus, tokens
from lstm_jax.training.data import text as stream
from lstm_jax.training.data.cache import cache_dir, written
from lstm_jax.training.data.text import text_dataset
from lstm_jax.training.data.tokens import read_tokens

STRICT = False
pytestmark = pytest.mark.usefixtures("cache")

ROOT = Path(__file__).parent.parent.parent
LINES = [
    "the quick brown fox,\n",
    "Žluťoučký kůň – “naïve”\r\n",
    "東京は 日本の首都です。\n",
    "😀 Ω\n\n",
]
TEXT = "".join(LINES * 30)


@pytest.fixture
def large(monkeypatch):
    """Every text is large, and is read a few bytes at a time."""
    monkeypatch.setattr(tokens, "IN_MEMORY", 0)
    monkeypatch.setattr(corpus, "BLOCK", 59)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.encode())
    return path


def parts(read):
    return [np.asarray(part).tolist() for part in (read.train, read.held_out, read.test)]


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64, 10_000])
@pytest.mark.parametrize("unit", ["character", "word", "token"])
def test_a_large_text_has_the_ids_of_a_small_one(text, monkeypatch, unit, block):
    data = Data(path=text, unit=unit, vocabulary_size=12)
    small = read_tokens(data)
    monkeypatch.setattr(tokens, "IN_MEMORY", 0)
    monkeypatch.setattr(corpus, "BLOCK", block)
    large = read_tokens(data)
    assert large.vocabulary == small.vocabulary
    assert parts(large) == parts(small)
    assert (small.large, large.large) == (False, True)
    assert large.train.dtype == np.uint8


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("names", [["a"], ["b", "a", "c/d"]])
def test_a_folder_of_large_texts(tmp_path, monkeypatch, names):
    for name in names:
        path = tmp_path / "texts" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name + TEXT, encoding="utf-8", newline="")
    data = Data(path=tmp_path / "texts")
    large = read_tokens(data)
    monkeypatch.setattr(tokens, "IN_MEMORY", 10**9)
    assert parts(large) == parts(read_tokens(data))


@pytest.mark.usefixtures("large")
def test_more_than_256_symbols_take_two_bytes(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(map(chr, range(0x4E00, 0x4E00 + 300))) * 20, encoding="utf-8")
    read = read_tokens(Data(path=path))
    assert read.train.dtype == np.uint16
    assert len(read.vocabulary) == 301


@pytest.mark.usefixtures("large")
def test_batches_are_those_of_a_small_text(text, monkeypatch):
    data = Data(path=text, batch_size=4, sequence_length=8)
    large = text_dataset(data, seed=3)
    monkeypatch.setattr(tokens, "IN_MEMORY", 10**9)
    small = text_dataset(data, seed=3)
    for a, b in zip(large.batches(5, 200), small.batches(5, 200), strict=True):
        assert a is b is None or (a.dtype == b.dtype and (a == b).all())
    targets, weights = large.held_out.targets, large.held_out.weights
    whole = small.held_out.targets[small.held_out.weights == 1]
    assert sorted(targets[weights == 1]) == sorted(whole)
    assert (targets.dtype, targets.shape[2]) == (np.int32, 64)


@pytest.mark.usefixtures("large")
def test_a_large_text_is_evaluated_on_a_part_and_says_so(text, monkeypatch):
    monkeypatch.setattr(stream, "HELD_OUT_OF_LARGE", 100)
    monkeypatch.setattr(stream, "BASELINES_OF_LARGE", 1000)
    task = text_dataset(Data(path=text, batch_size=4, sequence_length=8), seed=0)
    assert task.eval.weights.sum() == 99
    assert "100 of 192 held out" in task.summary
    assert set(task.baselines) == {
        "unigram baseline of the last 1,000",
        "5-gram baseline of the last 1,000",
    }


def test_nothing_is_kept_of_a_small_text(text, cache):
    read_tokens(Data(path=text))
    assert not cache.exists()


def never(*arguments):
    raise AssertionError("encoded again")


@pytest.mark.usefixtures("large")
def test_a_large_text_is_encoded_once(text, monkeypatch):
    first = read_tokens(Data(path=text))
    monkeypatch.setattr(tokens, "_encoded", never)
    again = read_tokens(Data(path=text))
    assert parts(first) == parts(again)
    assert again.vocabulary == first.vocabulary
    assert again.digest == first.digest
    assert isinstance(again.train, np.memmap)
    with pytest.raises(AssertionError, match="encoded again"):
        read_tokens(Data(path=text, unit="word"))


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        ("ids", cut_short),
        ("ids", Path.unlink),
        ("json", cut_short),
        ("json", Path.unlink),
        ("json", lambda path: path.write_text("[1]")),
        ("json", lambda path: path.write_text(path.read_text().replace("uint8", "kind"))),
        (
            "json",
            lambda path: path.write_text(path.read_text().replace('"format": 1', '"format": 0')),
        ),
    ],
)
def test_a_damaged_cache_is_made_anew(text, cache, suffix, damage):
    before = parts(read_tokens(Data(path=text)))
    (path,) = (cache / "ids").glob(f"*.{suffix}")
    damage(path)
    assert parts(read_tokens(Data(path=text))) == before
    assert len(list((cache / "ids").iterdir())) == 2


@pytest.mark.usefixtures("large")
def test_a_stale_cache_is_made_anew(text, cache):
    first = read_tokens(Data(path=text))
    text.write_bytes(TEXT.replace("quick", "QUICK").encode())
    os.utime(text, ns=(1, 1))
    second = read_tokens(Data(path=text))
    assert second.digest != first.digest
    assert "Q" in second.vocabulary.symbols
    assert len(list((cache / "ids").iterdir())) == 2


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("at", ["new", "replaced"])
def test_an_interrupted_cache_leaves_nothing_half_done(text, cache, monkeypatch, at):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*((tokens, "_check_still") if at == "new" else (json, "dumps")), interrupt)
        with pytest.raises(KeyboardInterrupt):
            read_tokens(Data(path=text))
    left = sorted(path.suffix for path in (cache / "ids").iterdir())
    assert left == ([] if at == "new" else [".ids"])
    assert read_tokens(Data(path=text)).vocabulary.decode([1, 2]) == "\n\r"


@pytest.mark.usefixtures("large")
def test_a_text_that_changes_while_it_is_read(text, cache, monkeypatch):
    sources = iter("ab")
    monkeypatch.setattr(tokens, "_source", lambda text: next(sources))
    with pytest.raises(ConfigError, match=r"data\.path.*text\.txt"):
        read_tokens(Data(path=text))
    assert list((cache / "ids").iterdir()) == []


@pytest.mark.usefixtures("large")
def test_a_cache_that_cannot_be_written(text, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LSTM_JAX_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=rf"data\.path.*{tmp_path}/file/ids.*LSTM_JAX_CACHE"):
        read_tokens(Data(path=text))


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize(
    ("content", "flags", "names"),
    [
        (b"", [], r"data\.path.*text\.txt.*\b0\b.*\b10\b"),
        (
            TEXT.encode() * 3 + b"na\xefve" * 9,
            [],
            rf"data\.path.*text\.txt.*UTF-8.*\b{len(TEXT.encode()) * 3 + 2}\b",
        ),
        (
            TEXT.encode() + b"\xf0\x9f",
            [],
            rf"data\.path.*text\.txt.*UTF-8.*\b{len(TEXT.encode())}\b",
        ),
        (TEXT.encode(), ["--data.sequence-length", "9999"], r"\b159985\b.*data\.batch_size"),
        (b"x y " * 99, ["--data.unit", "word"], r"\b179\b.*\b1025\b.*data\.batch_size"),
        (b" " * 9999, ["--data.unit", "word"], r"\b0\b.*data\.batch_size"),
        (b"a" * 9999, [], r"\b1\b.*data\.vocabulary_size"),
    ],
)
def test_large_texts_that_cannot_be_used(tmp_path, capsys, text, content, flags, names):
    text.write_bytes(content)
    args = ["--data.path", str(text), "--workdir", str(tmp_path / "run"), *flags]
    assert main(args, default_config=ROOT / "configs" / "quickstart.py") == 2
    printed = capsys.readouterr()
    assert re.search(names, printed.err)
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert not (tmp_path / "run").exists()
    assert not list(tmp_path.glob("cache/**/*.new"))


def test_the_cache_has_its_place(monkeypatch, tmp_path):
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("LSTM_JAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "lstm_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "lstm_jax"


def test_what_is_half_written_does_not_replace_what_was_there(tmp_path):
    path = tmp_path / "a"
    path.write_text("good")

    def write():
        with written(path) as new:
            new.write_text("hal")
            raise OSError(28, "No space left on device")

    with pytest.raises(
        ConfigError, match=rf"data\.path.*{path}.*{os.strerror(errno.ENOSPC)}.*LSTM_JAX_CACHE"
    ):
        write()
    assert path.read_text() == "good"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("unit", ["character", "word"])
def test_memory_does_not_grow_with_the_text(tmp_path, monkeypatch, unit):
    monkeypatch.setattr(tokens, "IN_MEMORY", 0)
    monkeypatch.setattr(corpus, "BLOCK", 10_000)
    peaks = []
    for times in (1, 8):
        path = tmp_path / f"{times}.txt"
        path.write_text("the words of naïve people, " * 2_000 * times, encoding="utf-8")
        tracemalloc.start()
        read_tokens(Data(path=path, unit=unit))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0], peaks
