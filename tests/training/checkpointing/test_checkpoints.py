"""Checkpoints on disk: detection of changed files, and errors."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.training.checkpointing.checkpoints import (
    Checkpoints,
    CorruptError,
    is_finite,
    steps_in,
)
from lstm_jax.training.errors import NotFiniteError, RunError
from tests.cases import nightly

STRICT = False


def large_state():
    """Returns a state that includes large arrays, which TensorStore stores without checksums."""
    draw = np.random.default_rng(0).standard_normal
    return {
        "params": jnp.array(draw((200, 150)), jnp.float32),
        "half": jnp.array(draw((300, 70)), jnp.bfloat16),
        "step": jnp.array(4),
        "flags": jnp.array([True, False]),
    }


def save(directory, state, notes):
    """Saves a checkpoint of step 4."""
    checkpoints = Checkpoints(directory, keep=2)
    checkpoints.save(4, state, state, notes)
    checkpoints.close()


def restore(directory, state):
    """Returns the latest checkpoint that can be restored, and reasons why later ones cannot."""
    checkpoints = Checkpoints(directory, read_only=True)
    try:
        return checkpoints.restore_latest(state)
    finally:
        checkpoints.close()


def flip_bit(path, place):
    """Flips a bit of the byte at a place in a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("places", [2, *nightly(12)])
def test_a_flipped_bit_is_detected_or_harmless(tmp_path, places):
    """Flips bits in every file of a checkpoint. Orbax alone restores most of them without an error."""
    state = large_state()
    save(tmp_path / "c", state, {"loss": 0.5})
    found = {"corrupt": 0, "by checksum": 0}
    for path in (p for p in (tmp_path / "c").rglob("*") if p.is_file()):
        content = path.read_bytes()
        for place in range(0, len(content), max(1, len(content) // places)):
            flip_bit(path, place)
            checkpoint, corrupt = restore(tmp_path / "c", state)
            path.write_bytes(content)
            if checkpoint is None:
                found["corrupt"] += 1
                found["by checksum"] += "the checksum of" in corrupt[4]
            else:
                assert checkpoint.verified
                assert checkpoint.notes["loss"] == 0.5
                same = jax.tree.map(lambda a, b: bool((a == b).all()), checkpoint.state, state)
                assert all(jax.tree.leaves(same)), path
    assert found["by checksum"] >= places // 2
    assert found["corrupt"] > found["by checksum"]


def test_a_checkpoint_without_checksums_is_restored_unverified(tmp_path):
    state = large_state()
    save(tmp_path, state, {"loss": 0.5})
    for path in (tmp_path / "4" / "notes").iterdir():
        path.unlink()
    checkpoint, corrupt = restore(tmp_path, state)
    assert (checkpoint.step, checkpoint.notes, checkpoint.verified, corrupt) == (4, {}, False, {})


def test_a_copy_without_small_files_is_verified(tmp_path):
    state = large_state()
    save(tmp_path, state, {})
    small = ("_CHECKPOINT_METADATA", "commit_success.txt", "_sharding", "array_metadatas/process_0")
    for name in small:
        for path in list(tmp_path.rglob(name)):
            path.unlink()
    checkpoint, _ = restore(tmp_path, state)
    assert checkpoint.verified


@pytest.mark.parametrize(
    "message", ["Permission denied", "RESOURCE_EXHAUSTED", "Input/output error"]
)
def test_an_io_error_is_not_a_corrupt_checkpoint(tmp_path, monkeypatch, message):
    state = large_state()
    save(tmp_path, state, {})
    checkpoints = Checkpoints(tmp_path, read_only=True)

    def fail(*args, **kwargs):
        raise ValueError(f"{message}: Error opening zarr driver")

    monkeypatch.setattr(checkpoints._manager, "restore", fail)
    with pytest.raises(RunError, match=message) as error:
        checkpoints.restore_latest(state)
    assert not isinstance(error.value, CorruptError)
    monkeypatch.undo()
    checkpoints.close()


def test_only_directories_named_by_a_step_are_checkpoints(tmp_path):
    for name in ("4", "20", "400.corrupt", "8.orbax-checkpoint-tmp", "007", "x"):
        (tmp_path / name).mkdir()
    assert steps_in(tmp_path) == [20, 4]
    assert steps_in(tmp_path / "missing") == []


def test_notes_are_restored_as_they_were_saved(tmp_path):
    state = {"w": jnp.ones(3)}
    notes = {"since_log": {"loss": [0.1, float("inf")], "skipped": [True, False]}}
    save(tmp_path, state, notes)
    checkpoint, _ = restore(tmp_path, state)
    assert checkpoint.notes["since_log"] == notes["since_log"]
    assert json.loads(json.dumps(checkpoint.notes)) == checkpoint.notes


def test_only_finite_parameters_are_saved(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    bad = {"w": jax.numpy.array([1.0, np.nan])}
    with pytest.raises(NotFiniteError, match=r"\b7\b.*optimizer\.learning_rate"):
        checkpoints.save(7, bad, bad, {})
    checkpoints.close()
    assert checkpoints.latest() is None
    assert not is_finite({"a": np.array([1.0, np.nan])})
    assert is_finite({"a": np.array([1.0, 2.0]), "n": np.array([3])})
