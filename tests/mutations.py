"""Mutation testing: introduces one defect at a time, and checks that a test fails.

    python -m tests.mutations                # all mutations, in a copy of the repository; two minutes
    python -m tests.mutations "dropout"      # mutations whose name contains the word

If a mutation survives, a test is missing, and the exit code is 1.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent


class Mutation(NamedTuple):
    """A defect: ``old``, which occurs once in the file, becomes ``new``; ``tests`` should fail."""

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTATIONS = [
    Mutation(
        "the forget and the input gate are swapped",
        "cell.py",
        "f = sigmoid(z_f)\n        i = sigmoid(z_i)",
        "f = sigmoid(z_i)\n        i = sigmoid(z_f)",
        "tests/test_cell.py",
    ),
    Mutation(
        "extra weights of a cell are cast to bfloat16",
        "cell.py",
        "lambda p: jnp.asarray(p, C_dtype), extra_weights(params)",
        "lambda p: jnp.asarray(p, dtype), extra_weights(params)",
        "tests/test_specs.py",
    ),
    Mutation(
        "vmap of a gradient sums the gradients of all members",
        "backends/batching.py",
        'or weights_mapped or step.name == "backward"',
        "or weights_mapped",
        "tests/backends/test_batching.py",
    ),
    Mutation(
        "a missing attribute of JAX is interpreted as a single device",
        "target.py",
        "devices = context.num_devices",
        'devices = getattr(context, "num_devices", 1)',
        "tests/backends/test_kernels.py",
    ),
    Mutation(
        "axes are merged even if XLA partitions the program",
        "products.py",
        "function = merged if partitioned_reason(ctx) is None else plain",
        "function = merged",
        "tests/test_products.py",
    ),
    Mutation(
        "in reverse, blocks of steps run from the first to the last",
        "backends/blocks.py",
        "(count - 1 - n if reverse else n) * steps",
        "n * steps",
        "tests/backends/test_blocks.py",
    ),
    Mutation(
        "the inputs of padding are not zeroed",
        "backends/problem.py",
        "return self._replace(xs=select(self.hold, jnp.zeros_like(self.xs), self.xs))",
        "return self",
        "tests/test_sequence.py",
    ),
    Mutation(
        "an explicit unroll is ignored on GPUs",
        "backends/lowering.py",
        "if step.settings.unroll is None:",
        "if True:",
        "tests/backends/test_unrolled.py",
    ),
    Mutation(
        "in reverse, a reset in the padding acts on the last valid step",
        "sequence.py",
        "begin = resets if hold is None else resets & ~hold",
        "begin = resets",
        "tests/test_sequence.py",
    ),
    Mutation(
        "the derivative of the XLA form passes gradients across resets",
        "backends/xla.py",
        "d_prev = select(begin, d.reset_state, d_carried)",
        "d_prev = d_carried",
        "tests/backends/test_agreement.py",
    ),
    Mutation(
        "the CPU kernel's gradient of the inputs is stored in the wrong order of rows",
        "backends/cpu.py",
        ".reshape(-1, k, rows).transpose(1, 2, 0)",
        ".reshape(-1, rows, k).transpose(2, 1, 0)",
        "tests/backends/test_agreement.py",
    ),
    Mutation(
        "the TPU kernel ignores that a step holds the state",
        "backends/tpu.py",
        "mask = jnp.where(hold, HOLD, mask)",
        "mask = jnp.where(hold, 0, mask)",
        "tests/backends/test_tpu.py",
    ),
    Mutation(
        "final_state_only stores the outputs of all steps",
        "backends/xla.py",
        "return None if settings.final_state_only else h",
        "return h",
        "tests/test_final_state.py",
    ),
    Mutation(
        "nnx.view does not turn dropout off",
        "nnx.py",
        "if deterministic is not None:",
        "if False:",
        "tests/test_nnx.py",
    ),
    Mutation(
        "a plain carry is returned as an LSTMState",
        "modules.py",
        "return state if isinstance(initial, LSTMState) else tuple(state)",
        "return state",
        "tests/test_flax_keywords.py",
    ),
    Mutation(
        "an option that the kernel ignores is not refused",
        "backends/lowering.py",
        "if required and ignored:",
        "if False:",
        "tests/test_options.py",
    ),
    Mutation(
        "all layers use the same dropout mask",
        "stack.py",
        "jax.random.fold_in(key, first // D)",
        "key",
        "tests/test_stack.py",
    ),
    Mutation(
        "data.reset_probability has no effect",
        "training/train_step.py",
        "_resets(batch, key_resets, config.data.reset_probability)",
        "_resets(batch, key_resets, 0.0)",
        "tests/training/test_train_step.py",
    ),
    Mutation(
        "all sequences of a batch are reset together",
        "training/train_step.py",
        "jax.random.bernoulli(key, probability, (B,))",
        "jax.random.bernoulli(key, probability, (1,))",
        "tests/training/test_train_step.py",
    ),
    Mutation(
        "an evaluation forgets the state between two calls",
        "training/evaluation.py",
        "carry, sums = run_some(params, carry, some)",
        "_, sums = run_some(params, carry, some)",
        "tests/training/test_evaluation.py",
    ),
    Mutation(
        "the latest model is kept as the best",
        "training/checkpointing/run_checkpoints.py",
        "if loss < self.best_loss:",
        "if loss != self.best_loss:",
        "tests/training/checkpointing/test_run_checkpoints.py",
    ),
    Mutation(
        "the best model of an older checkpoint is dropped",
        "training/checkpointing/run_checkpoints.py",
        "for state in states:",
        "for state in states[:1]:",
        "tests/training/checkpointing/test_run_checkpoints.py",
    ),
    Mutation(
        "metrics name a model before it is on the disk",
        "training/run.py",
        "self.checkpoints.best.wait()  # the model must be on disk before metrics.jsonl refers to it",
        "pass",
        "tests/training/test_full_disk.py::test_a_full_disk_at_the_best_model",
    ),
    Mutation(
        "restored arrays are not compared with their checksums",
        "training/checkpointing/checkpoints.py",
        "if saved[name] != value]",
        "if saved[name] != saved[name]]",
        "tests/training/checkpointing/test_checkpoints.py",
    ),
    Mutation(
        "a run whose checkpoints are corrupt starts again",
        "training/checkpointing/run_checkpoints.py",
        "if found is None and corrupt:",
        "if False:",
        "tests/training/test_resume.py::test_nothing_changes_if_no_checkpoint_can_be_restored",
    ),
    Mutation(
        "a part of a batch counts as if it were the whole batch",
        "training/grad_accum.py",
        "Part(batch, resets, key, whole.weight)",
        "Part(batch, resets, key, jnp.asarray(batch.weights).sum())",
        "tests/training/test_grad_accum.py",
    ),
    Mutation(
        "a stream skips a token between two batches",
        "training/data/text.py",
        "ids[(step * T + np.arange",
        "ids[(step * (T + 1) + np.arange",
        "tests/training/data/test_text.py",
    ),
    Mutation(
        "weight decay is applied to biases",
        "training/optimizer.py",
        'lambda path, _: "bias" not in jax.tree_util.keystr(path), params',
        "lambda path, _: True, params",
        "tests/training/test_optimizer.py",
    ),
    Mutation(
        "the columns of recurrent weights are sharded",
        "training/parallel/layout.py",
        ", axes=(0,), gathered_by_layer=True",
        ", gathered_by_layer=True",
        "tests/training/parallel/test_layout.py",
    ),
    Mutation(
        "padding counts as tokens",
        "training/train_step.py",
        "if batch.lengths is None:\n        return jnp.float32",
        "if True:\n        return jnp.float32",
        "tests/training/test_train_step.py",
    ),
    Mutation(
        "the evaluation of the step to resume from is kept and repeated",
        "training/run_dir/directory.py",
        'and "eval/loss" in line and not evaluated',
        'and "eval/loss" in line and False',
        "tests/training/run_dir/test_directory.py",
    ),
    Mutation(
        "skipped steps are part of the mean loss",
        "training/metrics.py",
        "float(values[~skipped].mean())",
        "float(values.mean())",
        "tests/training/test_metrics.py",
    ),
]


def copy_repository(folder: Path) -> Path:
    """Copies the repository's files, tracked and untracked, except those that git ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def failing_test(mutation: Mutation, tree: Path) -> str | None:
    """Returns the first test that fails on the changed code, or None if all pass."""
    path = tree / "lstm_jax" / mutation.file
    source = path.read_text(encoding="utf-8")
    assert source.count(mutation.old) == 1, (
        f"expected exactly one occurrence of {mutation.old!r} in {mutation.file}; update the mutation."
    )
    path.write_text(source.replace(mutation.old, mutation.new), encoding="utf-8")
    try:
        command = [sys.executable, "-m", "pytest", "-x", "-n", "2", mutation.tests]
        done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    finally:
        path.write_text(source, encoding="utf-8")
    failed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert failed or done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return failed[0] if failed else None


def main(words: list[str]) -> int:
    """Prints a line per mutation. Returns 1 if a mutation survives, else 0."""
    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = copy_repository(Path(folder))
        for mutation in MUTATIONS:
            if all(word in f"{mutation.name} {mutation.file}" for word in words):
                test = failing_test(mutation, tree)
                survived += test is None
                print(f"{mutation.name} ({mutation.file}): {test or 'SURVIVED'}", flush=True)
    return min(survived, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
