"""The ids of texts: encoded once into the cache, memory-mapped, verified in every run."""

import json
import os
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from lstm_jax.training.cli import main
from lstm_jax.training.config import ConfigError, Data
from lstm_jax.training.data import encoding, text_files, tokens
from lstm_jax.training.data.cache import CacheError
from lstm_jax.training.data.tokens import read_tokens
from lstm_jax.training.data.vocabulary import Vocabulary
from tests.training.data.build import decoded

STRICT = False
pytestmark = pytest.mark.usefixtures("cache")

ROOT = Path(__file__).parents[3]
LINES = [
    "the quick brown fox,\n",
    "Žluťoučký kůň – “naïve”\r\n",
    "東京は 日本の首都です。\n",
    "😀 Ω\n\n",
]
TEXT = "".join(LINES * 30)


@pytest.fixture
def blocks(monkeypatch):
    """Texts are read a few bytes at a time."""
    monkeypatch.setattr(text_files, "BLOCK", 59)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.encode())
    return path


def parts(read):
    return [np.asarray(part).tolist() for part in (read.train, read.validation, read.test)]


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64, 10_000])
@pytest.mark.parametrize("unit", ["character", "word", "token"])
def test_the_ids_are_those_of_the_text_in_memory(text, monkeypatch, unit, block):
    strings = decoded(text_files.files_text(text))
    vocabulary = Vocabulary.of(strings[0], unit, 12)
    monkeypatch.setattr(text_files, "BLOCK", block)
    read = read_tokens(Data(path=text, unit=unit, vocabulary_size=12))
    assert read.vocabulary == vocabulary
    assert parts(read) == [vocabulary.encode(part).tolist() for part in strings]
    assert read.train.dtype == np.uint8
    assert isinstance(read.train, np.memmap)


def test_the_embedded_text_is_cached_too(cache):
    first, again = read_tokens(Data()), read_tokens(Data())
    assert len(list(cache.rglob("*.ids"))) == 1
    assert parts(first) == parts(again)
    assert isinstance(again.train, np.memmap)
    assert again.name.startswith("pydoc_data.topics")


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("names", [["a"], ["b", "a", "c/d"]])
def test_a_directory_of_texts(tmp_path, names):
    for name in names:
        path = tmp_path / "texts" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name + TEXT, encoding="utf-8", newline="")
    read = read_tokens(Data(path=tmp_path / "texts"))
    joined = "\n\n".join(name + TEXT for name in sorted(names))
    size = len(joined) - len(joined) // 10
    vocabulary = Vocabulary.of(joined[:size])
    assert parts(read) == [
        vocabulary.encode(part).tolist() for part in (joined[:size], joined[size:], "")
    ]


def test_more_than_256_symbols_take_two_bytes(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(map(chr, range(0x4E00, 0x4E00 + 300))) * 20, encoding="utf-8")
    read = read_tokens(Data(path=path))
    assert read.train.dtype == np.uint16
    assert len(read.vocabulary) == 301


@pytest.mark.parametrize("large", [False, True])
def test_a_text_is_large_from_its_size_on(text, monkeypatch, large):
    monkeypatch.setattr(tokens, "LARGE", text.stat().st_size + (not large))
    assert read_tokens(Data(path=text)).large == large


def never(*arguments):
    raise AssertionError("encoded again")


@pytest.mark.usefixtures("blocks")
def test_a_text_is_encoded_once(text, monkeypatch):
    first = read_tokens(Data(path=text))
    monkeypatch.setattr(encoding, "encode", never)
    again = read_tokens(Data(path=text))
    assert parts(first) == parts(again)
    assert again.vocabulary == first.vocabulary
    assert again.digest == first.digest
    assert isinstance(again.train, np.memmap)
    with pytest.raises(AssertionError, match="encoded again"):
        read_tokens(Data(path=text, unit="word"))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize(
    ("suffix", "corrupt"),
    [
        ("ids", truncate),
        ("ids", Path.unlink),
        ("json", truncate),
        ("json", Path.unlink),
        ("json", lambda path: path.write_text("[1]")),
        ("json", lambda path: path.write_text(path.read_text().replace("uint8", "kind"))),
        (
            "json",
            lambda path: path.write_text(path.read_text().replace('"format": 2', '"format": 1')),
        ),
    ],
)
def test_a_corrupt_cache_is_encoded_again(text, cache, suffix, corrupt):
    before = parts(read_tokens(Data(path=text)))
    (path,) = (cache / "ids").glob(f"*.{suffix}")
    corrupt(path)
    assert parts(read_tokens(Data(path=text))) == before
    assert len(list((cache / "ids").iterdir())) == 2


@pytest.mark.usefixtures("blocks")
def test_a_stale_cache_is_encoded_again(text, cache):
    first = read_tokens(Data(path=text))
    text.write_bytes(TEXT.replace("quick", "QUICK").encode())
    os.utime(text, ns=(1, 1))
    second = read_tokens(Data(path=text))
    assert second.digest != first.digest
    assert "Q" in second.vocabulary.symbols
    assert len(list((cache / "ids").iterdir())) == 2


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("at", ["new", "replaced"])
def test_an_interruption_leaves_no_incomplete_file(text, cache, monkeypatch, at):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(
            *((encoding, "_check_unchanged") if at == "new" else (json, "dumps")), interrupt
        )
        with pytest.raises(KeyboardInterrupt):
            read_tokens(Data(path=text))
    left = sorted(path.suffix for path in (cache / "ids").iterdir())
    assert left == ([] if at == "new" else [".ids"])
    assert read_tokens(Data(path=text)).vocabulary.decode([1, 2]) == "\n\r"


@pytest.mark.usefixtures("blocks")
def test_a_text_that_changes_while_it_is_read(text, cache, monkeypatch):
    sources = iter("ab")
    monkeypatch.setattr(encoding, "_hash_of_source", lambda text: next(sources))
    with pytest.raises(ConfigError, match=r"data\.path.*text\.txt"):
        read_tokens(Data(path=text))
    assert list((cache / "ids").iterdir()) == []


def cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LSTM_JAX_CACHE", str(tmp_path / "file"))


def has_no_home(monkeypatch, tmp_path):
    def unknown():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("LSTM_JAX_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", unknown)


def is_full(monkeypatch, tmp_path):
    def full(*arguments):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "replace", full)


def cannot_be_mapped(monkeypatch, tmp_path):
    def refuse(*arguments, **options):
        raise OSError(19, os.strerror(19))

    monkeypatch.setattr(np, "memmap", refuse)


@pytest.mark.parametrize("trouble", [cannot_be_written, has_no_home, is_full, cannot_be_mapped])
@pytest.mark.parametrize("large", [False, True])
def test_a_cache_that_cannot_be_used(text, monkeypatch, tmp_path, trouble, large):
    monkeypatch.setattr(tokens, "LARGE", 0 if large else tokens.LARGE)
    expected = read_tokens(Data(path=text))
    for path in (tmp_path / "cache").rglob("*.json"):
        path.unlink()
    trouble(monkeypatch, tmp_path)
    if large:
        with pytest.raises(CacheError, match=r"LSTM_JAX_CACHE|cannot map"):
            read_tokens(Data(path=text))
        return
    with pytest.warns(UserWarning, match=r"LSTM_JAX_CACHE|cannot map"):
        read = read_tokens(Data(path=text))
    assert parts(read) == parts(expected)
    assert (read.vocabulary, read.digest) == (expected.vocabulary, expected.digest)
    assert not list(tmp_path.rglob("*.new"))


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize(
    ("content", "flags", "names"),
    [
        (b"", [], r"data\.path.*\b10\b.*\b0\b.*text\.txt"),
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
def test_texts_that_cannot_be_used(tmp_path, capsys, text, content, flags, names):
    text.write_bytes(content)
    args = ["--data.path", str(text), "--workdir", str(tmp_path / "run"), *flags]
    assert main(args, default_config=ROOT / "configs" / "quickstart.py") == 2
    printed = capsys.readouterr()
    assert re.search(names, printed.err)
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert not (tmp_path / "run").exists()
    assert not list(tmp_path.glob("cache/**/*.new"))


@pytest.mark.parametrize("unit", ["character", "word"])
def test_memory_does_not_grow_with_the_text(tmp_path, monkeypatch, unit):
    monkeypatch.setattr(tokens, "LARGE", 0)
    monkeypatch.setattr(text_files, "BLOCK", 10_000)
    peaks = []
    for times in (1, 8):
        path = tmp_path / f"{times}.txt"
        path.write_text("the words of naïve people, " * 2_000 * times, encoding="utf-8")
        tracemalloc.start()
        read_tokens(Data(path=path, unit=unit))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0], peaks


def fill_ids_with_zeros(path):
    ids = path.with_suffix(".ids")
    ids.write_bytes(bytes(ids.stat().st_size))


def remove_tokens_from_vocabulary(path):
    content = json.loads(path.read_text())
    content["symbols"] = content["symbols"][:5]
    path.write_text(json.dumps(content))


def change_a_token(path):
    path.write_text(path.read_text().replace('"q"', '"Q"'))


@pytest.mark.parametrize(
    "make_corrupt", [fill_ids_with_zeros, remove_tokens_from_vocabulary, change_a_token]
)
def test_cached_ids_are_verified(text, cache, make_corrupt):
    first = read_tokens(Data(path=text))
    before = parts(first)
    (path,) = (cache / "ids").glob("*.json")
    make_corrupt(path)
    again = read_tokens(Data(path=text))
    assert parts(again) == before
    assert again.vocabulary == first.vocabulary
