"""Queries of compiled programs."""

from lstm_jax.training.aot.hlo import Collective, collectives


def collectives_in_loops(text: str) -> list[Collective]:
    """Returns the collectives that run in every iteration of a loop."""
    assert " while(" in text, "expected a program with a loop"
    return [c for c in collectives(text) if c.loops]
