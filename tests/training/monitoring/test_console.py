"""Standard output that fails, is closed or lacks characters."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lstm_jax.training.monitoring import console
from tests.cases import nightly

STRICT = False

ROOT = Path(__file__).parents[3]


SMALL = """
--model.hidden-size 8 --data.batch-size 2 --data.sequence-length 8 --train.steps 20 --train.log-every 10
--train.eval-every 20 --train.checkpoint-every 20 --train.steps-per-dispatch 10 --sample.length 20
--sample.prompt \u65e5\u672c --mesh.data 1
""".split()  # noqa: SIM905


MAIN = """
import sys
from pathlib import Path
from lstm_jax.training.cli import main
sys.exit(main(sys.argv[1:], Path("configs/quickstart.py")))
"""


TEXT = "\u65e5\u672c\u8a9e\u306e\u672c\u3002 \u201cquoted\u201d \u00fcber \n" * 200


@pytest.fixture
def command(tmp_path):
    """Runs ``train.py`` in a process. ``before`` is Python code that runs first."""
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")

    def run(*args, before="", stdout=subprocess.PIPE, **environment):
        # JAX writes to stderr about entries of the tests' cache that a killed process left incomplete.
        without_cache = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
        if not args:
            args = ["--data.path", tmp_path / "text.txt", "--workdir", tmp_path / "run", *SMALL]
        return subprocess.run(
            [sys.executable, "-c", before + MAIN, *map(str, args)],
            cwd=ROOT, env=without_cache | {"JAX_PLATFORMS": "cpu"} | environment, stdout=stdout,
            stderr=subprocess.PIPE, text=True, errors="replace",
        )  # fmt: skip

    return run


NONE = "import sys; sys.stdout = None\n"


LOGGER = """
import sys
class Logger:
    def write(self, text):
        sys.__stdout__.write(text)
    def flush(self):
        sys.__stdout__.flush()
sys.stdout = Logger()
"""


@pytest.mark.parametrize(
    "case", [(LOGGER, "utf-8"), ("", "ascii"), *nightly((NONE, "utf-8"), ("", "latin-1"))]
)
def test_any_stdout_is_supported(command, tmp_path, case):
    before, encoding = case
    done = command(before=before, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "run" / "result.json").exists()
    if before != NONE:
        assert "best checkpoint: step 20  eval" in done.stdout
    if encoding != "utf-8":
        assert r"\u65e5\u672c" in done.stdout
        flags = ["--prompt", "\u65e5\u672c"]
        generated = command("generate", tmp_path / "run", *flags, PYTHONIOENCODING=encoding)
        assert (generated.returncode, generated.stderr) == (0, "")


@pytest.mark.parametrize("kind", ["closed", *nightly("full")])
def test_a_failing_stdout_gives_a_warning(command, tmp_path, kind):
    def failing():
        if kind == "full":
            return os.open("/dev/full", os.O_WRONLY)
        read, write = os.pipe()
        os.close(read)
        return write

    reason = "Broken pipe" if kind == "closed" else "No space left on device"
    out = failing()
    done = command(stdout=out)
    assert done.returncode == 0
    assert re.fullmatch(rf"warning: cannot write to standard output: {reason}\..*\n", done.stderr)
    assert (tmp_path / "run" / "result.json").exists()
    done = command("evaluate", tmp_path / "run", stdout=out)  # a command that only prints
    os.close(out)
    assert done.returncode == 1
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_a_line_that_cannot_be_encoded_is_escaped(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    console.say("über")
    assert raw.getvalue() == b"\\xfcber\n"


def test_a_closed_stream_gives_one_warning(monkeypatch, capsys):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    assert not console.is_terminal()
    console.say("a")
    console.say("b")
    assert console.has_failed()
    assert capsys.readouterr().err.count("warning") == 1
    monkeypatch.setattr(sys, "stderr", None)
    console.print_error("no stream")
