"""Datasets by name: downloaded once, verified, and the messages when that fails."""

import gzip
import hashlib
import http.server
import re
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lstm_jax.training.cli import main, parse
from lstm_jax.training.config import ConfigError, Data, locate
from lstm_jax.training.config.json import as_json, from_json
from lstm_jax.training.data.named import named_folder, named_text
from lstm_jax.training.data.named_table import DATASETS, File, NamedDataset
from lstm_jax.training.data.tokens import read_tokens
from lstm_jax.training.run_dir import RunDir
from tests.training.data.build import build, decoded

STRICT = False
pytestmark = pytest.mark.usefixtures("cache")

ROOT = Path(__file__).parents[3]
CONTENT = {
    "train.txt": b"the quick brown fox jumps over the lazy dog . \n" * 40,
    "valid.txt": b"the lazy dog jumps . \n" * 10,
    "test.txt": b"the fox \n" * 10,
}


@pytest.fixture
def site(tmp_path):
    """The directory of a local server, its address, and the requested paths."""
    directory = tmp_path / "site"
    directory.mkdir()
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(directory))

        def log_message(self, *args):
            requests.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield directory, f"http://127.0.0.1:{server.server_port}", requests
        server.shutdown()


@pytest.fixture
def toy(site, monkeypatch):
    """A dataset of three files in a zip, as WikiText is."""
    directory, url, _ = site
    with zipfile.ZipFile(directory / "toy.zip", "w") as archive:
        for name, content in CONTENT.items():
            archive.writestr(f"toy/{name}", content)
    files = [
        File(name, f"{url}/toy.zip", f"md5:{hashlib.md5(content).hexdigest()}", f"toy/{name}")
        for name, content in CONTENT.items()
    ]
    monkeypatch.setitem(DATASETS, "toy", NamedDataset("text", tuple(files)))
    return files


def error_message(name="toy", task="text"):
    with pytest.raises(ConfigError) as error:
        named_folder(name, task)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.usefixtures("toy")
def test_a_named_text_is_downloaded_once(site, cache):
    text = decoded(named_text("toy"))
    assert [part.encode() for part in text] == list(CONTENT.values())
    assert len(site[2]) == 1
    named_text("toy")
    assert len(site[2]) == 1
    assert {path.name for path in (cache / "sets" / "toy").iterdir()} == set(CONTENT)


@pytest.mark.usefixtures("toy")
def test_the_test_set_of_a_text():
    data = Data(path=Path("name:toy"), unit="token", batch_size=4, sequence_length=8)
    dataset = build(data, seed=0)
    assert "440 tokens for training, 60 for validation, 30 for test" in dataset.summary
    assert dataset.test.weights.sum() == 29
    assert set(dataset.test_baselines) == set(dataset.baselines)
    assert "fox" in dataset.vocabulary.symbols


def test_the_error_without_a_network_names_the_url_and_the_directory(
    toy, site, cache, capsys, tmp_path
):
    (site[0] / "toy.zip").unlink()
    flags = ["--data.path", "name:toy", "--workdir", str(tmp_path / "run")]
    assert main(flags, default_config=ROOT / "configs" / "quickstart.py") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert re.search(f"data.path.*{toy[0].url}.*{cache}", printed.err)
    assert not (tmp_path / "run").exists()
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_a_server_that_does_not_answer(monkeypatch):
    files = tuple(File(name, f"http://127.0.0.1:9/{name}", "md5:0") for name in "abc")
    monkeypatch.setitem(DATASETS, "toy", NamedDataset("text", files))
    message = error_message()
    assert re.search(r"http://127\.0\.0\.1:9/a\W.*\[Errno \d+\]", message)
    assert all(f"http://127.0.0.1:9/{name}" in message for name in "abc")


@pytest.mark.parametrize("packed", [True, False])
def test_files_added_by_hand_are_used(toy, site, cache, packed):
    directory = cache / "sets" / "toy"
    directory.mkdir(parents=True)
    archive = (site[0] / "toy.zip").read_bytes()
    (site[0] / "toy.zip").unlink()
    if packed:
        (directory / "toy.zip").write_bytes(archive)
    else:
        for name, content in CONTENT.items():
            (directory / name).write_bytes(content)
    assert decoded(named_text("toy"))[0].encode() == CONTENT["train.txt"]
    assert (directory / "toy.zip").exists() == packed


def test_a_wrong_file_added_by_hand_is_refused(toy, cache):
    named_folder("toy", "text")
    path = cache / "sets" / "toy" / "valid.txt"
    path.write_bytes(b"other")
    expected, got = toy[1].checksum[4:], hashlib.md5(b"other").hexdigest()
    assert re.search(rf"{path}.*md5.*{expected}.*valid\.txt.*{got}", error_message())
    assert path.read_bytes() == b"other"


def test_a_wrong_or_truncated_download_is_not_cached(toy, site, cache):
    archive = site[0] / "toy.zip"
    complete = archive.read_bytes()
    for content in (complete[: len(complete) // 2], b"<html>please log in</html>"):
        archive.write_bytes(content)
        assert re.search(f"{toy[0].url}.*{cache}/sets/toy/toy.zip", error_message())
    with zipfile.ZipFile(archive, "w") as other:
        other.writestr("toy/train.txt", "other")
    assert re.search(rf"md5.*{toy[0].checksum[4:]}.*train\.txt", error_message())
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_an_interrupted_download_is_not_cached(site, cache, monkeypatch):
    directory, url, _ = site
    (directory / "a").write_bytes(b"x" * 100)

    def short(self, source, output):
        output.write(source.read()[:50])

    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "copyfile", short)
    monkeypatch.setitem(DATASETS, "toy", NamedDataset("text", (File("a", f"{url}/a", "md5:0"),)))
    assert re.search(rf"{url}/a\W.*\b50\b.*\b100\b", error_message())
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_a_single_file_is_split_at_its_cuts(site, monkeypatch):
    directory, url, _ = site
    content = bytes(range(256)) * 4
    (directory / "one.gz").write_bytes(gzip.compress(content))
    file = File("one", f"{url}/one.gz", f"sha256:{hashlib.sha256(content).hexdigest()}")
    monkeypatch.setitem(DATASETS, "toy", NamedDataset("text", (file,), (900, 960), "latin-1"))
    read = read_tokens(Data(path=Path("name:toy")))
    assert [len(part) for part in (read.train, read.validation, read.test)] == [900, 60, 64]
    assert len(read.vocabulary) == 257  # bytes, and the unknown


def test_unknown_names():
    known = "name:text8.*name:enwik8.*name:wikitext-103.*name:ptb"
    assert re.search(f"{known}.*'text'.*name:nope", error_message("nope"))
    assert re.search("name:mnist.*'images'.*name:ptb", error_message("ptb", "images"))
    assert re.search("'text'.*name:mnist", error_message("mnist"))
    with pytest.raises(ConfigError, match=r"data\.path.*'arrays'.*hf:a"):
        build(Data(task="arrays", path=Path("hf:a")), seed=0)
    with pytest.raises(ConfigError, match=r"data\.path.*'arrays'.*name:ptb"):
        build(Data(task="arrays", path=Path("name:ptb")), seed=0)


def test_images_by_name(site, monkeypatch):
    directory, url, _ = site
    files = []
    for name, array in {
        "train-images-idx3-ubyte": np.zeros((24, 4, 3)),
        "train-labels-idx1-ubyte": np.arange(24) % 3,
        "t10k-images-idx3-ubyte": np.zeros((6, 4, 3)),
        "t10k-labels-idx1-ubyte": np.arange(6) % 3,
    }.items():
        header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
        content = header + array.astype(np.uint8).tobytes()
        (directory / f"{name}.gz").write_bytes(gzip.compress(content))
        digest = hashlib.sha256(content).hexdigest()
        files.append(File(name, f"{url}/{name}.gz", f"sha256:{digest}"))
    assert {file.name for file in DATASETS["mnist"].files} == {file.name for file in files}
    monkeypatch.setitem(DATASETS, "toy", NamedDataset("images", tuple(files)))
    dataset = build(Data(task="images", path=Path("name:toy"), batch_size=2), seed=0)
    assert "6 for test" in dataset.summary


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=DATASETS)
def test_the_table_of_datasets(dataset):
    assert len(dataset.files) == {"images": 4, "text": 1 if dataset.cuts else 3}[dataset.task]
    for file in dataset.files:
        algorithm, digest = file.checksum.split(":")
        assert len(digest) == 2 * hashlib.new(algorithm).digest_size
        assert file.url.startswith("https://")
        assert bool(file.member) == file.url.endswith(".zip")


@pytest.mark.parametrize("name", ["name:text8", "hf:owner/set:config"])
def test_a_name_in_place_of_a_path_survives(tmp_path, name):
    default = ROOT / "configs" / "quickstart.py"
    flags = ["--data.path", name, "--workdir", str(tmp_path / "run")]
    experiment = locate(parse(flags, default).experiment)
    assert as_json(experiment)["data"]["path"] == name
    assert from_json(as_json(experiment)) == experiment
    experiment.run_dir.mkdir()
    RunDir(experiment.run_dir).start(experiment)
    RunDir(experiment.run_dir).check(experiment)
    with pytest.raises(ConfigError, match=r"data\.path\b.*name:.*\btext8\b"):
        locate(parse(["--data.path", "text8"], default).experiment)
