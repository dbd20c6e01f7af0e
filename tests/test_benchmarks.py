"""Tests that the benchmarks run, write their results, and do not time models with wrong results."""

import importlib.util
import json
import re
import subprocess

import jax
import jax.numpy as jnp
import pytest

from benchmarks import against, growth, models, overhead, peers

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
