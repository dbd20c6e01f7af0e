"""Checkpoints on the disk: what is noticed when a file changes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.training.checkpointing.checkpoints import (
    Checkpoints,
    CorruptError,
    _checksums,
    steps_in,
)
from lstm_jax.training.errors import RunError
from tests.cases import nightly

STRICT = False


def large_state():
    """Arrays that TensorStore writes to files of their own, without a checksum."""
    draw = np.random.default_rng(0).standard_normal
    return {
        "params": jnp.array(draw((200, 150)), jnp.float32),
        "half": jnp.array(draw((300, 70)), jnp.bfloat16),
        "step": jnp.array(4),
        "flags": jnp.array([True, False]),
    }


def saved(folder, state, notes):
    checkpoints = Checkpoints(folder, keep=2)
    checkpoints.save(4, state, state, notes)
    checkpoints.close()


def restored(folder, state):
    checkpoints = Checkpoints(folder, read_only=True)
    try:
        return checkpoints.restore_latest(state)
    finally:
        checkpoints.close()


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("places", [2, *nightly(12)])
def test_a_flipped_bit_is_noticed_or_harmless(tmp_path, places):
    """Flips bits in every file of a checkpoint. Orbax alone restores most of them without an error."""
    state = large_state()
    saved(tmp_path / "c", state, {"loss": 0.5})
    found = {"corrupt": 0, "by checksum": 0}
    for path in (p for p in (tmp_path / "c").rglob("*") if p.is_file()):
        content = path.read_bytes()
        for at in range(0, len(content), max(1, len(content) // places)):
            flip(path, at)
            checkpoint, corrupt = restored(tmp_path / "c", state)
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


def test_without_checksums_it_is_restored_and_not_verified(tmp_path):
    state = large_state()
    saved(tmp_path, state, {"loss": 0.5})
    for path in (tmp_path / "4" / "notes").iterdir():
        path.unlink()
    checkpoint, corrupt = restored(tmp_path, state)
    assert (checkpoint.step, checkpoint.notes, checkpoint.verified, corrupt) == (4, {}, False, {})


def test_a_copy_without_its_small_files_is_verified(tmp_path):
    state = large_state()
    saved(tmp_path, state, {})
    small = ("_CHECKPOINT_METADATA", "commit_success.txt", "_sharding", "array_metadatas/process_0")
    for name in small:
        for path in list(tmp_path.rglob(name)):
            path.unlink()
    checkpoint, _ = restored(tmp_path, state)
    assert checkpoint.verified


@pytest.mark.parametrize(
    "message", ["Permission denied", "RESOURCE_EXHAUSTED", "Input/output error"]
)
def test_an_error_of_the_machine_is_not_a_corrupt_checkpoint(tmp_path, monkeypatch, message):
    state = large_state()
    saved(tmp_path, state, {})
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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "int8", "uint16", "bool"])
def test_a_checksum_changes_with_every_bit(dtype):
    """And with the sign of all numbers; it is the sum of the mixed words, modulo 2**32."""
    array = np.array(jnp.array(np.random.default_rng(1).integers(0, 2, (3, 4)), dtype))
    words = array.view({1: np.uint8, 2: np.uint16, 4: np.uint32}[array.itemsize]).astype(np.uint64)
    mixed = words ^ (np.arange(12, dtype=np.uint64).reshape(3, 4) * 2654435761 % 2**32)
    mixed = (mixed ^ (mixed >> 16)) * 0x85EBCA6B % 2**32
    mixed = (mixed ^ (mixed >> 13)) * 0xC2B2AE35 % 2**32
    want = int((mixed ^ (mixed >> 16)).sum() % 2**32)
    assert _checksums({"a": array}) == {"a": want}
    if dtype == "bool":
        return
    if "float" in dtype:
        assert _checksums({"a": -array}) != {"a": want}
    for byte in range(array.nbytes):
        for bit in range(8):
            changed = array.copy()
            changed.view(np.uint8).reshape(-1)[byte] ^= 1 << bit
            assert _checksums({"a": changed}) != {"a": want}


def test_a_checksum_does_not_depend_on_the_sharding():
    from jax.sharding import AxisType, NamedSharding
    from jax.sharding import PartitionSpec as P

    array = np.random.default_rng(0).standard_normal((8, 12)).astype(np.float32)
    want = _checksums({"a": array})
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,), devices=jax.devices()[:4])
        with jax.set_mesh(mesh):
            for spec in (P(), P("data"), P(None, "data")):
                assert _checksums({"a": jax.device_put(array, NamedSharding(mesh, spec))}) == want


def test_notes_survive_json(tmp_path):
    state = {"w": jnp.ones(3)}
    notes = {"since_log": {"loss": [0.1, float("inf")], "skipped": [True, False]}}
    saved(tmp_path, state, notes)
    checkpoint, _ = restored(tmp_path, state)
    assert checkpoint.notes["since_log"] == notes["since_log"]
    assert json.loads(json.dumps(checkpoint.notes)) == checkpoint.notes
