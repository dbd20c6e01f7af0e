"""Compares ``lstm`` of this checkout with an earlier revision, in one process.

    python -m benchmarks.against REVISION [--shapes 128,32,256,256 ...] [--rounds 7] [--vmap 4]

The earlier package is read from git and imported under another name. Each row is a forward pass, or a
forward and backward pass, and has these columns, the first three before and after:

instructions: of the optimized program
temp MB: temporary memory of the program
page faults: per call (glibc maps temporaries above 32 MiB again in every call)
time ratio: this checkout over the earlier one, median over the rounds
min ms: minimum time of this checkout

"same HLO" means that both programs have the same instructions, except for their names and their order.
"""

import argparse
import importlib
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import jax

import lstm_jax
from benchmarks.problem import Problem, arrays, sizes
from benchmarks.timing import interleaved, median_ratio

ROOT = Path(__file__).parents[1]
EARLIER_NAME = "earlier_lstm_jax"
SHAPES = ["128,32,256,256", "128,64,64,64", "512,32,128,128", "100,16,1024,1024"]


def main(argv: list[str] | None = None) -> None:
    """Runs the command line and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("revision", help="a git revision such as HEAD~1, or a directory")
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="T,B,I,H")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--vmap", type=int, help="split the batch among this many calls under vmap")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        earlier = import_earlier(args.revision, Path(folder))
        print(
            f"{'T,B,I,H':18} {'pass':9} {'instructions':>14}  {'temp MB':>14}  {'page faults':>16}"
            f"  {'time ratio':>10} {'min ms':>7}"
        )
        for shape in args.shapes:
            problem = Problem(*sizes(shape), args.dtype)
            for name, function in (("forward", forward), ("gradient", gradient)):
                row = compare(
                    partial(function, args.backend, args.vmap), earlier, problem, args.rounds
                )
                print(f"{shape:18} {name:9} {row}", flush=True)


def import_earlier(revision: str, folder: Path) -> ModuleType:
    """Imports the package at a git revision, or in a directory, under another name."""
    if Path(revision).is_dir():
        shutil.copytree(Path(revision) / "lstm_jax", folder / "lstm_jax")
    else:
        command = ["git", "archive", revision, "lstm_jax"]
        archive = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
        subprocess.run(["tar", "x", "-C", folder], input=archive.stdout, check=True)
    (folder / "lstm_jax").rename(folder / EARLIER_NAME)
    for file in (folder / EARLIER_NAME).rglob("*.py"):
        text = re.sub(r"\blstm_jax\b", EARLIER_NAME, file.read_text(encoding="utf-8"))
        file.write_text(text, encoding="utf-8")
    sys.path.insert(0, str(folder))
    return importlib.import_module(EARLIER_NAME)


def forward(backend: str, members: int | None, module: ModuleType, params: Any, xs: Any) -> Any:
    """Computes the hidden states."""
    run = lambda xs: module.lstm(params, xs, backend=backend)[1]  # noqa: E731
    if members is None:
        return run(xs)
    T, B, I = xs.shape
    return jax.vmap(run, 1, 1)(xs.reshape(T, members, B // members, I))


def gradient(backend: str, members: int | None, module: ModuleType, params: Any, xs: Any) -> Any:
    """Computes the gradient with respect to parameters and inputs."""

    def loss(params: Any, xs: Any) -> Any:
        return (forward(backend, members, module, params, xs) ** 2).sum()

    return jax.grad(loss, argnums=(0, 1))(params, xs)


def compare(
    function: Callable[..., Any], earlier: ModuleType, problem: Problem, rounds: int
) -> str:
    """Measures one row of the table and returns it as text."""
    params, xs, _ = arrays(problem)
    runs, counts, programs = {}, {}, []
    for module in (earlier, lstm_jax):
        given = module.LSTMParams(**vars(params)), xs
        compiled = jax.jit(partial(function, module)).lower(*given).compile()
        runs[module] = lambda c=compiled, g=given: jax.block_until_ready(c(*g))
        programs.append(instructions(compiled.as_text()))
        counts[module] = (
            programs[-1].total(),
            compiled.memory_analysis().temp_size_in_bytes / 1e6,
            page_faults(runs[module]),
        )
    samples = interleaved(runs, rounds)
    pairs = zip(("6", "6.1f", "7.0f"), counts[earlier], counts[lstm_jax], strict=True)
    before_and_after = "  ".join(f"{a:{width}} →{b:{width}}" for width, a, b in pairs)
    ratio = median_ratio(samples[lstm_jax], samples[earlier])
    same = "  same HLO" if programs[0] == programs[1] else ""
    return f"{before_and_after}  {ratio:10.2f} {min(samples[lstm_jax]):7.1f}{same}"


def instructions(hlo: str) -> Counter[str]:
    """Counts the instructions of a program, without names of values and computations and metadata."""
    lines = re.findall(r"^\s+(?:ROOT )?%?[\w.-]+ = .*", hlo, re.M)
    without_metadata = (re.sub(r", metadata=\{[^}]*\}", "", line) for line in lines)
    return Counter(
        re.sub(r"%[\w.-]+|^\s+(ROOT )?[\w.-]+ =", "%", line) for line in without_metadata
    )


def page_faults(run: Callable[[], Any], calls: int = 5) -> float:
    """Returns the mean number of page faults per call, after three calls to warm up the allocator."""
    for _ in range(3):
        run()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(calls):
        run()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / calls


if __name__ == "__main__":
    main()
