"""Custom cells, each with its step in float64 NumPy. ``Peephole`` is defined in the documentation."""

import doctest
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax import LSTMParams, LSTMSpec
from tests.reference import sigma

DOCS = Path(__file__).parents[1] / "docs"


def from_documentation(page: str, name: str) -> Any:
    """Returns the class ``name`` that a page defines, by running the examples of the page up to it."""
    namespace: dict[str, Any] = {}
    for example in doctest.DocTestParser().get_examples((DOCS / page).read_text(encoding="utf-8")):
        exec(compile(example.source, page, "single"), namespace)
        if name in namespace:
            return namespace[name]
    raise LookupError(f"{page} does not define {name}")


Peephole = from_documentation("extending.md", "Peephole")
Coupled = from_documentation("extending.md", "Coupled")


@dataclass(frozen=True)
class Clipped(LSTMSpec):
    """Limits the cell state."""

    limit: float = 0.3

    def combine(self, params, C, i, f, g, o):
        C, h = super().combine(params, C, i, f, g, o)
        return jnp.clip(C, -self.limit, self.limit), h


@dataclass(frozen=True)
class Hard(LSTMSpec):
    """Replaces the sigmoid by a hard sigmoid."""

    activations = (jax.nn.hard_sigmoid, jax.nn.hard_sigmoid, jnp.tanh, jax.nn.hard_sigmoid)


@dataclass(frozen=True)
class Normalized(LSTMSpec):
    """Normalizes the pre-activations over the units, which makes the units depend on each other."""

    def pointwise(self, params, C, z):
        z = z - z.mean(-1, keepdims=True)
        return super().pointwise(params, C, z / jnp.sqrt((z * z).mean(-1, keepdims=True) + 1e-5))


class Centered:
    """A mixin whose ``pointwise`` mixes hidden units."""

    def pointwise(self, params, C, z):
        C, h = LSTMSpec.pointwise(self, params, C, z)
        return C, h - h.mean(-1, keepdims=True)


@dataclass(frozen=True)
class Mixed(Centered, LSTMSpec):
    pass


@dataclass(frozen=True)
class Derived(Clipped):
    """Caches a value that is computed from a field."""

    @cached_property
    def half(self):
        return self.limit / 2

    def combine(self, params, C, i, f, g, o):
        C, h = super().combine(params, C, i, f, g, o)
        return C, h * self.half


@dataclass(frozen=True)
class NormalizedInCombine(LSTMSpec):
    """Normalizes C over the units in ``combine``, without setting ``elementwise`` to False."""

    def combine(self, params, C, i, f, g, o):
        C = f * C + i * g
        centered = C - C.mean(-1, keepdims=True)
        scale = jnp.sqrt((centered * centered).mean(-1, keepdims=True) + 1e-5)
        return C, o * jnp.tanh(centered / scale)


@dataclass(frozen=True)
class SaysByField(LSTMSpec):
    """Declares ``elementwise`` by a field."""

    elementwise: bool = False

    def pointwise(self, params, C, z):
        C, h = super().pointwise(params, C, z)
        return (C, h) if self.elementwise else (C, h - h.mean(-1, keepdims=True))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class ScaledParams(LSTMParams):
    scale: Any


@dataclass(frozen=True)
class Scaled(LSTMSpec):
    """Has a weight per gate. The size of its only axis is 4, which may equal H."""

    Params = ScaledParams
    elementwise = True

    def parameters(self, input_size, hidden_size):
        normal = (4,), jax.nn.initializers.normal(1.0)
        return {**super().parameters(input_size, hidden_size), "scale": normal}

    def pointwise(self, params, C, z):
        gates = [params.scale[n] * block for n, block in enumerate(jnp.split(z, 4, axis=-1))]
        return super().pointwise(params, C, jnp.concatenate(gates, axis=-1))


class NotADataclass(LSTMSpec):
    def __init__(self, limit):
        object.__setattr__(self, "limit", limit)


def peephole(params, C, z):
    p_i, p_f, p_o = params["peephole"]
    i, f, g, o = np.split(z, 4, axis=-1)
    f = sigma(f + p_f * C)
    i = sigma(i + p_i * C)
    C = f * C + i * np.tanh(g)
    return C, sigma(o + p_o * C) * np.tanh(C)


def coupled(params, C, z):
    i, g, o = np.split(z, 3, axis=-1)
    C = (1 - sigma(i)) * C + sigma(i) * np.tanh(g)
    return C, sigma(o) * np.tanh(C)


def plain(params, C, z, gate=sigma):
    i, f, g, o = np.split(z, 4, axis=-1)
    C = gate(f) * C + gate(i) * np.tanh(g)
    return C, gate(o) * np.tanh(C)


def clipped(params, C, z):
    C, h = plain(params, C, z)
    return np.clip(C, -0.3, 0.3), h


def hard(params, C, z):
    return plain(params, C, z, gate=lambda z: np.clip(z / 6 + 0.5, 0, 1))


def normalized(params, C, z):
    z = z - z.mean(-1, keepdims=True)
    return plain(params, C, z / np.sqrt((z * z).mean(-1, keepdims=True) + 1e-5))


def mixed(params, C, z):
    C, h = plain(params, C, z)
    return C, h - h.mean(-1, keepdims=True)


def derived(params, C, z):
    C, h = clipped(params, C, z)
    return C, h * 0.15


CELLS = {
    "peephole": (Peephole(), peephole),
    "coupled": (Coupled(), coupled),
    "clipped": (Clipped(), clipped),
    "hard": (Hard(), hard),
    "derived": (Derived(), derived),
    "normalized": (Normalized(), normalized),
    "mixed": (Mixed(), mixed),
}
"""The spec of each cell and its step in NumPy, ``(params, C, z) -> (C, h)``, by name."""


def in_numpy(step, params, xs):
    """Runs a sequence ``[T, *B, I]`` from zero states, and returns ``(C, h), hs``. ``params`` is a dict."""
    H = params["w_h"].shape[0]
    C, h = np.zeros((*xs.shape[1:-1], H)), np.zeros((*xs.shape[1:-1], H))
    hs = []
    for x in xs:
        C, h = step(params, C, x @ params["w_x"] + h @ params["w_h"] + params["bias"])
        hs.append(h)
    return (C, h), np.stack(hs)
