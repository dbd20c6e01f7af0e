"""Tests that the benchmarks run, write their results, and do not time models with wrong results."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from benchmarks import (
    against,
    gpu,
    gpu_check,
    gpu_record,
    gpu_speed,
    gpu_train,
    growth,
    models,
    overhead,
    peers,
    subjects,
)
from benchmarks.problem import Problem

STRICT = False  # other libraries use implicit promotion
pytestmark = pytest.mark.filterwarnings("ignore")  # other libraries warn about their own code

OPTIONAL = {"haiku": "haiku", "equinox": "equinox", "torch nn.LSTM": "torch"}
TINY = ["--repeats", "1", "--gemm", "16", "--shapes", "5,2,3,4"]


def test_peers_agree_and_every_row_is_written(tmp_path, capsys):
    peers.main([*TINY, "--json", str(tmp_path / "peers.json")])
    record = json.loads((tmp_path / "peers.json").read_text())
    (shape,) = record["shapes"]
    assert shape["shape"] == {"T": 5, "B": 2, "I": 3, "H": 4}
    ours = ["lstm_jax auto", "lstm_jax scan", "lstm_cell in a scan"]
    assert set(shape["rows"]) == {*ours, *models.PEERS, "torch nn.LSTM"}
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines()[2:])) <= 120
    for name, row in shape["rows"].items():
        assert name in printed
        if name in OPTIONAL and importlib.util.find_spec(OPTIONAL[name]) is None:
            assert row == {"status": "not installed"}
            continue
        assert row["status"] == "ok"
        assert row["error"] < peers.TOLERANCE["float32"]
        for metrics in (row["forward"], row["forward + backward"]):
            assert len(metrics["samples_ms"]) == 1
            assert metrics["min_ms"] > 0
            assert metrics["ratio"] > 0


def swap_gates(params):
    """Swaps the forget gate and the output gate."""

    def swap(packed):
        i, f, g, o = jnp.split(packed, 4, axis=-1)
        return jnp.concatenate([i, o, g, f], axis=-1)

    return jax.tree.map(swap, params)


@pytest.mark.parametrize(
    "wrong",
    [
        swap_gates,
        lambda p: p.replace(bias=p.bias + 0.01),
        lambda p: p.replace(w_h=p.w_h.at[0, 0].add(1)),
    ],
)
def test_a_wrong_conversion_is_not_timed(monkeypatch, wrong):
    linen = models.PEERS["flax.linen time-major"]

    def build(problem):
        model = linen(problem)
        return model._replace(convert=lambda params: model.convert(wrong(params)))

    monkeypatch.setattr(models, "PEERS", {"flax.linen time-major": build})
    monkeypatch.setattr(peers, "interleaved", lambda *_: pytest.fail("timed"))
    with pytest.raises(ValueError, match=r"flax\.linen time-major.*lstm_jax auto"):
        peers.main(TINY)


def test_a_wrong_gradient_is_not_timed(monkeypatch):
    """The outputs are right, but the gradient of the recurrent weights is missing."""
    linen = models.PEERS["flax.linen time-major"]

    def build(problem):
        model = linen(problem)

        def convert(params):
            return model.convert(params.replace(w_h=jax.lax.stop_gradient(params.w_h)))

        return model._replace(convert=convert)

    monkeypatch.setattr(models, "PEERS", {"flax.linen time-major": build})
    monkeypatch.setattr(peers, "interleaved", lambda *_: pytest.fail("timed"))
    with pytest.raises(ValueError, match=r"lstm_jax auto.*w_h.*\b1\.0e"):
        peers.main(TINY)


def test_a_peer_that_fails_or_is_not_installed_gets_a_row(monkeypatch, capsys):
    def missing(problem):
        raise ImportError("no such library")

    def broken(problem):
        raise TypeError("changed\nits arguments")

    monkeypatch.setattr(models, "PEERS", {"missing": missing, "broken": broken})
    record = peers.main([*TINY, "--direction", "forward"])
    rows = record["shapes"][0]["rows"]
    assert rows["missing"] == {"status": "not installed"}
    assert rows["broken"] == {"status": "failed: TypeError: changed"}
    assert "forward + backward" not in rows["lstm_jax auto"]
    assert "not installed" in capsys.readouterr().out


def test_growth_writes_and_plots_every_point(tmp_path):
    growth.main(["--quick", "--repeats", "1", "--base", "4,2,2,4", "--out", str(tmp_path)])
    record = json.loads((tmp_path / "growth.json").read_text())
    got = {(p["axis"], p["size"], p["variant"]) for p in record["points"]}
    sizes = [("T", 4), ("T", 8), ("B", 2), ("B", 4), ("H", 4), ("H", 8)]
    assert got == {(*size, variant) for size in sizes for variant in growth.VARIANTS}
    assert (tmp_path / "growth.png").stat().st_size > 10_000


def test_the_overhead_of_the_trainer_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(overhead, "SIZES", {"tiny": (8, 4, 8, 10)})
    overhead.main(["--rounds", "1", "--steps", "200"])
    printed = capsys.readouterr().out
    assert re.fullmatch(
        r"bare step [\d.]+ ms; in the training loop [\d.]+ ms \([+-][\d.]+%\); "
        r"with a checkpoint every 100 steps [\d.]+ ms \([+-][\d.]+%\)\n",
        printed,
    )


def test_comparison_with_the_last_commit(capsys):
    if subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, check=False).returncode:
        pytest.skip("not a git repository")
    against.main(["HEAD", "--shapes", "3,8,2,2", "--rounds", "1", "--vmap", "2"])
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[:2] for row in rows] == [["3,8,2,2", "forward"], ["3,8,2,2", "gradient"]]


def gpu_run(*arguments):
    """Runs a command of benchmarks.gpu on whatever device there is."""
    return gpu.main([*arguments, "--any-device"])


TINY_GPU = {
    "check": "--shapes 6,3,4,8 --dtypes float32 --cases all --backends auto xla cpu cudnn",
    "speed": "--shapes 5,2,3,4 --dtypes float32 --rounds 1 --rows auto 'auto + loop graphs' cudnn flax.nnx "
    "'torch nn.LSTM'",
    "train": "--dtypes float32 --steps 40",
}


@pytest.fixture
def tiny_char_lm(monkeypatch):
    """The experiment that is timed, with 8 hidden units on a short text."""
    original = gpu_train.experiment

    def experiment(dtype, steps):
        config = original(dtype, steps)
        return replace(
            config,
            model=replace(config.model, hidden_size=8, embedding_size=4),
            data=replace(config.data, batch_size=4, sequence_length=8),
        )

    monkeypatch.setattr(gpu_train, "experiment", experiment)


@pytest.mark.nightly  # 6 s
def test_gpu_train_measures_the_trainer(tmp_path, tiny_char_lm, capsys):
    assert gpu_run("train", *shlex.split(TINY_GPU["train"]), "--out", str(tmp_path)) == 0
    (train,) = json.loads((tmp_path / "train.json").read_text())["rows"]
    assert train["status"] == "ok"
    assert train["tokens_per_second"] > 0
    assert train["eval_loss"] > 0
    capsys.readouterr()
    assert gpu.main(["report", str(tmp_path)]) == 0
    assert re.search(r"train: float32 [\d,]+ tokens/s$", capsys.readouterr().out.strip())


def test_gpu_results_are_written_and_reported(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)  # its import raises ImportError
    for command in ("check", "speed"):
        options = shlex.split(TINY_GPU[command])
        assert gpu_run(command, *options, "--out", str(tmp_path)) == 0
    results = {
        name: json.loads((tmp_path / f"{name}.json").read_text()) for name in ("check", "speed")
    }
    for name, result in results.items():
        assert result["command"] == name
        assert {"time", "commit", "xla_flags", "settings"} < set(result)
        assert {"device", "driver", "platform", "runtime", "cpu"} < set(result["machine"])
        assert result["versions"]["jax"] == jax.__version__
        assert {"jax-cuda12-plugin", "jax-cuda13-plugin"} < set(result["versions"])

    check = {row["backend"]: row for row in results["check"]["rows"]}
    for backend in ("auto", "xla", "cpu"):
        row = check[backend]
        assert row["status"] == "ok"
        assert set(row["errors"]) == {"hs", "C_T", "h_T"} | {
            f"d {name}" for name in ("w_x", "w_h", "bias", "xs", "C", "h")
        }
        assert row["error"] == max(row["errors"].values())
    assert check["cudnn"]["status"].startswith("refused: ")

    speed = {row["row"]: row for row in results["speed"]["rows"]}
    assert speed["torch nn.LSTM"]["status"] == "not installed"
    assert speed["cudnn"]["status"].startswith("refused: ")
    for name in set(speed) - {"torch nn.LSTM", "cudnn"}:
        for times in (speed[name]["forward"], speed[name]["forward + backward"]):
            assert times["min_us_per_step"] == pytest.approx(1e3 * times["samples_ms"][0] / 5)
            assert times["compile_s"] > 0

    capsys.readouterr()
    assert gpu.main(["report", str(tmp_path)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    parts = line.split(" | ")
    assert parts[0].startswith(jax.devices()[0].device_kind)
    assert f"jax {jax.__version__}" in parts[1]
    assert parts[2] == f"commit {results['check']['commit']}"
    assert "auto ok" in parts[3]
    assert "torch nn.LSTM not installed" in parts[4]


def test_gpu_report_measures_and_prints_one_line(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "SHORT", {c: f"{TINY_GPU[c]} --minutes 0" for c in TINY_GPU})
    assert gpu_run("report") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.count(" | ") == 5
    assert "auto not run" in line


def test_the_gpu_trainer_without_its_extra_is_a_row(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "lstm_jax.training.config", None)
    monkeypatch.delitem(sys.modules, "configs.char_lm", raising=False)
    assert gpu_run("train", "--out", str(tmp_path)) == 0
    assert capsys.readouterr().out.count("not installed") == len(gpu_train.DTYPES)


def test_gpu_commands_need_a_gpu(tmp_path, capsys):
    if jax.default_backend() == "gpu":
        pytest.skip("there is a GPU")
    assert gpu.main(["check", "--out", str(tmp_path)]) == 2
    assert "Expected a GPU" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_gpu_check_finds_wrong_results(monkeypatch):
    arrays = gpu_check.make_arrays((6, 3, 4, 8), "float32")
    expected = gpu_check.reference(arrays)
    assert gpu_check.compare(arrays, expected, "scan", 2e-5)["status"] == "ok"
    for name in expected:
        wrong = expected | {name: 1.01 * expected[name]}
        status = gpu_check.compare(arrays, wrong, "scan", 2e-5)["status"]
        assert status.startswith(f"wrong: the error of {name} is 9.9e-03")


def test_a_wrong_row_of_gpu_speed_is_not_timed(monkeypatch):
    def build(problem, passes):
        return subjects.in_jax(models.ours(problem, reverse=True), problem, passes)

    monkeypatch.setitem(gpu_speed.ROWS, "flax.nnx", build)
    rows = gpu_speed.measure(Problem(5, 2, 3, 4), ["auto", "flax.nnx"], 1, 1e-4)
    assert rows["auto"]["status"] == "ok"
    assert rows["flax.nnx"]["status"].startswith("wrong: ")
    assert "forward" not in rows["flax.nnx"]


@pytest.mark.parametrize("command", ["check", "speed", "train", "report", None])
def test_gpu_help_fits_80_columns(command, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit, match="0"):
        gpu.main([command, "--help"] if command else ["--help"])
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80


@pytest.mark.parametrize("backend", ["auto", "scan", "xla"])
@pytest.mark.parametrize("case", gpu_check.CASES)
def test_the_checked_programs_lower_for_gpus(backend, case):
    arrays = gpu_check.make_arrays((20, 3, 4, 8), "bfloat16", **gpu_check.CASES[case])
    operands = arrays["params"], arrays["state"], arrays["xs"]
    gradient = jax.grad(gpu_check.loss(arrays, backend), argnums=(0, 1, 2))
    for function in (gpu_check.layer(arrays, backend), gradient):
        for platform in ("cuda", "rocm"):
            lowered = jax.jit(function).trace(*operands).lower(lowering_platforms=(platform,))
            assert "custom_call" not in lowered.as_text()


@pytest.mark.parametrize("backend", ["cpu", "tpu"])
def test_kernels_of_other_platforms_are_refused_for_cuda(backend):
    arrays = gpu_check.make_arrays((6, 8, 128, 128), "float32")
    operands = arrays["params"], arrays["state"], arrays["xs"]
    traced = jax.jit(gpu_check.layer(arrays, backend)).trace(*operands)
    with pytest.raises(ValueError, match="cuda") as error:
        traced.lower(lowering_platforms=("cuda",))
    assert gpu_record.status_of(error.value).startswith("refused: ")
