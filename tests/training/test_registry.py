"""The additions of docs/extending.md work, and change as many files as CONTRIBUTING.md says."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLES = {"a task": "TASKS = {", "an optimizer": "OPTIMIZERS = {", "a sharding rule": "RULES = ("}
FILES = {"a sharding rule": "training/parallel/layout.py"}
TRAIN = """
from lstm_jax.training import fit
from lstm_jax.training.config import Data, Experiment, Mesh, Model, Optimizer, Train
from lstm_jax.training.parallel.layout import RULES
config = Experiment(
    name="toy",
    workdir="run",
    model=Model(hidden_size=8, embedding_size=4),
    data=Data(task="parity", sequence_length=4, batch_size=8, eval_sequences=9),
    optimizer=Optimizer(name="adabelief", b1=0.8),
    train=Train(steps=4, log_every=2, eval_every=4, checkpoint_every=4, steps_per_dispatch=2),
    mesh=Mesh(data=1),
)
assert len(RULES) == 3
print("metrics", sorted(fit(config, hooks=[])))
"""


def section(title):
    """Returns the fenced blocks below a heading of docs/extending.md."""
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    content = re.search(rf"^## {title}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)[1]
    return re.findall(r"^```text\n(.*?)^```$", content, re.MULTILINE | re.DOTALL)


def documented_count(addition):
    """Returns the number of files in the table of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return int(re.search(rf"^\| {addition} \| (\d+) \|", text, re.MULTILINE)[1])


def add_row(package, addition, row):
    """Adds a row at the start of the table for an addition."""
    path = package / FILES.get(addition, "training/registry.py")
    content, table = path.read_text(), TABLES[addition]
    assert content.count(table) == 1
    path.write_text(content.replace(table, f"{table}\n{row}"))


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A copy of the package."""
    copy = tmp_path_factory.mktemp("copy") / "lstm_jax"
    shutil.copytree(ROOT / "lstm_jax", copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def contents(package):
    return {p: p.read_bytes() for p in package.rglob("*.py")}


def test_the_documented_additions_touch_the_documented_number_of_files(package):
    def count(add):
        """Returns the number of files that a function changes."""
        before = contents(package)
        add()
        after = contents(package)
        return sum(before.get(path) != content for path, content in after.items())

    module, task = section("A training task")
    (optimizer,), (rule,) = section("An optimizer"), section("A sharding rule")

    def add_task():
        (package / "training/data/parity.py").write_text(module)
        add_row(package, "a task", task)

    assert count(add_task) == documented_count("a task")
    assert count(lambda: add_row(package, "an optimizer", optimizer)) == documented_count(
        "an optimizer"
    )
    assert count(lambda: add_row(package, "a sharding rule", rule)) == documented_count(
        "a sharding rule"
    )
    environment = os.environ | {"PYTHONPATH": str(package.parent), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", TRAIN], cwd=package.parent, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "metrics ['eval/accuracy', 'eval/loss']" in done.stdout
