"""Code shared by the Linen and NNX modules: layers, carries, the keywords of Flax's cells.

It does not import Flax.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from lstm_jax.backends.one_tanh import SIGMOIDS, TANHS
from lstm_jax.cell import Activation, LSTMSpec, Precision, lstm_cell, sigmoid, tanh
from lstm_jax.checks import check_spec, type_name
from lstm_jax.initializers import Initializer
from lstm_jax.notation import LSTMParams, LSTMState, Shape
from lstm_jax.options import Options
from lstm_jax.stack import active_dropout, lstm_stack

FlaxState = LSTMState | tuple[Any, Any]
"""A state, either an ``LSTMState`` or the plain pair ``(c, h)`` of Flax's cells."""
Carry = tuple[LSTMState, ...]
"""The carry of an ``LSTM`` module: one state per layer and direction."""


class CallKeywords(TypedDict, total=False):
    """For type checkers: the keywords of ``__call__`` that do not affect the type of its result."""

    initial_carry: Any
    seq_lengths: ArrayLike | None
    resets: ArrayLike | None
    time_major: bool | None
    reverse: bool | None
    keep_order: bool | None
    deterministic: bool | None


@dataclass(frozen=True)
class ActivationsSpec(LSTMSpec):
    """The LSTM with the arguments ``gate_fn`` and ``activation_fn`` of Flax's cells instead of σ and tanh.

    Attributes:
      gate_fn: The activation of the gates i, f and o.
      activation_fn: The activation of the candidate values g, and of C in ``h = o ⊙ activation_fn(C)``.
    """

    gate_fn: Activation = sigmoid
    activation_fn: Activation = tanh

    @property
    def activations(self) -> Sequence[Activation]:  # type: ignore[override]
        """The activation of each gate: i, f, g, o."""
        return self.gate_fn, self.gate_fn, self.activation_fn, self.gate_fn

    def combine(
        self, params: LSTMParams, C: Any, i: jax.Array, f: jax.Array, g: jax.Array, o: jax.Array
    ) -> tuple[Any, jax.Array]:
        """Returns ``C = f ⊙ C + i ⊙ g`` and ``h = o ⊙ activation_fn(C)``."""
        C = f * C + i * g
        return C, o * self.activation_fn(C)


def with_activations(spec: LSTMSpec, gate_fn: Activation, activation_fn: Activation) -> LSTMSpec:
    """Returns the cell with Flax's ``gate_fn`` and ``activation_fn``. For σ and tanh it is ``spec``.

    Raises:
      ValueError: If ``spec`` is not a cell, or if it is not the plain LSTM and a function is not the default.
    """
    check_spec(spec, LSTMSpec)
    for name, function in (("gate_fn", gate_fn), ("activation_fn", activation_fn)):
        if not callable(function):
            raise ValueError(
                f"expected {name} to be a function such as jax.nn.sigmoid, got {function!r}."
            )
    if gate_fn in SIGMOIDS and activation_fn in TANHS:
        return spec
    if spec != LSTMSpec():
        raise ValueError(
            f"expected gate_fn and activation_fn only with the plain LSTM, got spec={spec!r}; set the "
            f"activations of {type(spec).__name__} in the class, and omit gate_fn and activation_fn."
        )
    return ActivationsSpec(gate_fn, activation_fn)


def layer_names(num_layers: int, bidirectional: bool) -> list[str]:
    """Returns the names of layers and directions, in the order of :func:`lstm_jax.init_stack`.

    >>> layer_names(2, bidirectional=True)
    ['l0f', 'l0b', 'l1f', 'l1b']
    """
    return [f"l{layer}{d}" for layer in range(num_layers) for d in ("fb" if bidirectional else "f")]


def initial_state(
    spec: LSTMSpec,
    hidden_size: int,
    batch: Shape,
    dtype: DTypeLike,
    carry_init: Initializer | None,
    next_key: Callable[[], jax.Array] | None,
) -> LSTMState:
    """Returns a state for a batch: zeros, or drawn by ``carry_init``. Like Flax's cells, it draws C first."""
    types = spec.state_types(hidden_size, batch, dtype)
    if carry_init is None or next_key is None:
        return jax.tree.map(lambda type_: jnp.zeros(type_.shape, type_.dtype), types)
    return jax.tree.map(lambda type_: carry_init(next_key(), type_.shape, type_.dtype), types)


def run_cell(
    params: LSTMParams,
    carry: FlaxState,
    inputs: ArrayLike,
    *,
    spec: LSTMSpec,
    precision: Precision,
    size_name: str,
) -> tuple[Any, jax.Array]:
    """Computes one step by :func:`lstm_jax.lstm_cell`. The new carry has the type of ``carry``.

    Args:
      params: The weights.
      carry: An ``LSTMState``, or a plain pair ``(c, h)``.
      inputs: ``[*B, I]``. Integers are cast to the dtype of h.
      spec: The kind of cell.
      precision: Precision of the matrix products.
      size_name: The name of the module's argument for the hidden size, used in error messages.
    """
    state = as_state("carry", carry, spec.hidden_size(params), size_name)
    x = jnp.asarray(inputs)
    if x.ndim == jnp.ndim(state.h) + 1 and jnp.ndim(state.h) > 1:
        raise ValueError(
            f"expected the inputs of one step, [*B, I] for a carry of shape {jnp.shape(state.h)}, got shape "
            f"{x.shape}; for a sequence use LSTM, or Flax's RNN around the cell."
        )
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        x = x.astype(jnp.result_type(state.h))
    new, h = lstm_cell(params, state, x, spec=spec, precision=precision)
    return (new if isinstance(carry, LSTMState) else tuple(new)), h


def as_state(name: str, given: Any, hidden_size: int, size_name: str) -> LSTMState:
    """Returns a state of the given hidden size from an ``LSTMState`` or a plain pair ``(c, h)``."""
    if not is_state(given):
        single = isinstance(given, tuple | list) and len(given) == 1
        hint = f"; write {name}[0]" if single else ""
        raise ValueError(
            f"expected {name} to be an LSTMState or a pair (c, h), got {type_name(given)}{hint}."
        )
    state = LSTMState(*given)
    got = jnp.shape(state.h)[-1:]
    if got and got != (hidden_size,):
        raise ValueError(
            f"expected {name} of hidden size {hidden_size}, got arrays of shape {jnp.shape(state.h)}; to use "
            f"this carry write {size_name}={got[0]}."
        )
    return state


def is_state(given: Any) -> bool:
    """Returns whether ``given`` is an ``LSTMState`` or a plain pair ``(c, h)``, where c may be None."""
    if isinstance(given, LSTMState):
        return True
    if type(given) is not tuple or len(given) != 2:
        return False
    return all(a is None or hasattr(a, "shape") for a in given)


def run_layers(
    params: Sequence[LSTMParams],
    xs: ArrayLike,
    *,
    num_layers: int,
    initial_carry: Any,
    seq_lengths: ArrayLike | None,
    resets: ArrayLike | None,
    return_carry: bool,
    time_major: bool,
    reverse: bool,
    keep_order: bool | None,
    dropout_rate: float,
    draw_key: Callable[[], jax.Array | None],
    spec: LSTMSpec,
    dtype: DTypeLike | None,
    options: Options,
    size_name: str,
) -> Any:
    """Runs :func:`lstm_jax.lstm_stack` with the arguments and the results of Flax's ``RNN``.

    Most arguments are the modules' arguments of the same name. ``dropout_rate`` is 0 if the call is
    deterministic. ``draw_key`` returns the key for dropout, or None if the call has no random state. It is
    called only if there is dropout. ``size_name`` is the name of the module's argument for the hidden size,
    used in error messages.
    """
    if keep_order is False and reverse:
        raise ValueError(
            "expected keep_order to be True with reverse=True, got False; outputs keep the time order of the "
            "inputs. For the order of processing write jnp.flip(hs, axis=time_axis)."
        )
    xs = jnp.asarray(xs)
    if not jnp.issubdtype(xs.dtype, jnp.inexact):  # Flax's layers promote integers, too
        xs = xs.astype(params[0].w_x.dtype if dtype is None else dtype)
    if xs.ndim < 2:
        layout = "[T, *B, I]" if time_major else "[*B, T, I]"
        raise ValueError(f"expected inputs of shape {layout}, got shape {xs.shape}.")
    dropout = active_dropout("dropout_rate", dropout_rate, num_layers)
    key = draw_key() if dropout > 0.0 else None
    if dropout > 0.0 and key is None:
        raise ValueError(
            f"dropout_rate={dropout} needs random numbers: pass rngs=key, a new key for each step, such as "
            "jax.random.fold_in(key, step), or deterministic=True to evaluate."
        )
    states = None
    if key is not None and not hasattr(key, "dtype"):
        raise ValueError(
            f"expected rngs to be a jax.random key, or random state of Flax, got {key!r}; write "
            "jax.random.key(0)."
        )
    if initial_carry is not None:
        states = _as_states(initial_carry, len(params), spec.hidden_size(params[0]), size_name)
        _check_batch(states, xs.shape, time_major)
    if resets is not None:
        resets = jnp.asarray(resets)
        if resets.shape != xs.shape[:-1]:
            raise ValueError(
                f"expected resets of shape {xs.shape[:-1]}, the shape of the inputs without the feature "
                f"axis, got {resets.shape}."
            )
    if seq_lengths is not None:
        seq_lengths = jnp.asarray(seq_lengths)
        check_seq_lengths(seq_lengths, xs.shape, time_major)
    if not time_major:
        xs = jnp.moveaxis(xs, -2, 0)
        resets = None if resets is None else jnp.moveaxis(resets, -1, 0)
    carry, hs = lstm_stack(
        params,
        xs,
        states,
        bidirectional=len(params) > num_layers,
        reverse=reverse,
        lengths=seq_lengths,
        resets=resets,
        dropout=dropout,
        key=key,
        spec=spec,
        dtype=dtype,
        **options.keywords(),
    )
    if not time_major:
        hs = jnp.moveaxis(hs, 0, -2)
    return (_convert_carry(carry, initial_carry), hs) if return_carry else hs


def _as_states(given: Any, count: int, hidden_size: int, size_name: str) -> list[LSTMState | None]:
    """Converts ``initial_carry``, in any of its allowed forms, to a list of states."""
    if is_state(given):
        if count == 1:
            return [as_state("initial_carry", given, hidden_size, size_name)]
        split = f"tuple(LSTMState(C[n], h[n]) for n in range({count}))"
        raise ValueError(
            f"expected initial_carry to be a tuple of {count} LSTMStates, one per layer and direction, got "
            f"a single state; for arrays C and h of shape [L, *B, H] write {split}."
        )
    if not isinstance(given, tuple | list) or len(given) != count:
        got = f"{len(given)} entries" if isinstance(given, tuple | list) else type(given).__name__
        if count == 1 and isinstance(given, list) and len(given) == 2:
            got += "; write a pair as a tuple (c, h)"
        raise ValueError(
            f"expected initial_carry to be a tuple of {count} LSTMStates, one per layer and direction, as "
            f"return_carry=True returns it, got {got}."
        )
    return [
        None if state is None else as_state(f"initial_carry[{n}]", state, hidden_size, size_name)
        for n, state in enumerate(given)
    ]


def _check_batch(states: Sequence[LSTMState | None], xs_shape: Shape, time_major: bool) -> None:
    """Checks that the states have the batch axes of the inputs, or no batch axes."""
    batch_first, time_first = xs_shape[:-2], xs_shape[1:-1]
    expected, other = (time_first, batch_first) if time_major else (batch_first, time_first)
    for state in states:
        got = expected if state is None else jnp.shape(state.h)[:-1]
        if got in (expected, ()):
            continue
        layout = "[T, *B, I]" if time_major else "[*B, T, I]"
        hint = f" Set time_major={not time_major} for the other order." if got == other else ""
        raise ValueError(
            f"expected initial_carry with batch axes {expected} for inputs of shape {xs_shape}, read as "
            f"{layout}, got {got}; initialize_carry takes the shape of one step, [*B, I].{hint}"
        )


def _convert_carry(carry: Carry, given: Any) -> Any:
    """Converts the final carry to the form and the dtypes of the given initial carry, which a scan requires.

    The dtype of C is never narrowed, because C is a sum over many steps.
    """
    if given is None:
        return carry
    single = is_state(given)
    states = [given] if single else given

    def convert(state: LSTMState, initial: Any) -> Any:
        if initial is None:
            return state
        C, h = state
        if C is not None:
            C = C.astype(jnp.promote_types(C.dtype, jnp.result_type(initial[0])))
        state = LSTMState(C, h.astype(jnp.result_type(initial[1])))
        return state if isinstance(initial, LSTMState) else tuple(state)

    converted = [convert(state, initial) for state, initial in zip(carry, states, strict=True)]
    if single:
        return converted[0]
    return given._make(converted) if hasattr(given, "_make") else type(given)(converted)


def check_seq_lengths(seq_lengths: jax.Array, xs_shape: Shape, time_major: bool) -> None:
    """Checks that ``seq_lengths`` has shape ``[*B]`` and an integer dtype."""
    shape = seq_lengths.shape
    if not jnp.issubdtype(seq_lengths.dtype, jnp.integer):
        raise ValueError(
            f"expected seq_lengths to be integers, got {seq_lengths.dtype}; for a mask that is True at valid "
            f"steps pass mask.sum(axis={0 if time_major else -1})."
        )
    batch_first, time_first = xs_shape[:-2], xs_shape[1:-1]
    expected, other = (time_first, batch_first) if time_major else (batch_first, time_first)
    if shape != expected:
        layout = "[T, *B, I]" if time_major else "[*B, T, I]"
        hint = f" Set time_major={not time_major} for the other order." if shape == other else ""
        raise ValueError(
            f"expected seq_lengths of shape {expected}, one per sequence of inputs, whose shape {xs_shape} "
            f"is read as {layout}, got {shape}.{hint}"
        )
