"""What tests ask of a compiled program."""

from lstm_jax.training.aot.hlo import Collective, collectives


def collectives_in_loops(text: str) -> list[Collective]:
    """Those that run in every iteration of some loop."""
    assert " while(" in text, "there is no loop"
    return [c for c in collectives(text) if c.loops]
