"""Checks of arguments at trace time, from shapes and dtypes. Errors say how to fix the call."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.notation import LSTMParams, LSTMState, Shape


def check_xs(xs: jax.Array) -> None:
    """``xs`` is ``[T, *B, I]`` and real."""
    if xs.ndim < 2:
        raise ValueError(
            f"expected xs of shape [T, *B, I], time first, got shape {xs.shape}; for a single "
            "time step call lstm_cell, or add the axis with xs[None]."
        )
    check_floating("xs", xs.dtype)


def check_x(x: jax.Array) -> None:
    """``x`` is ``[*B, I]`` and real."""
    if x.ndim < 1:
        raise ValueError("expected x of shape [*B, I], got a scalar; write x[None] for I = 1.")
    check_floating("x", x.dtype)


def check_floating(name: str, dtype: Any) -> None:
    """``dtype`` is a real floating point type."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise ValueError(
            f"expected {name} to be real, got {dtype}; take real and imaginary parts as features."
        )
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"expected {name} to be floating point, got {dtype}; embed ids or one-hot them "
            "(jax.nn.one_hot), cast other integers with .astype(float32)."
        )


def check_spec(spec: Any, base: Any) -> None:
    """``spec`` is an instance of ``base`` whose fields tell it from any other."""
    if not isinstance(spec, base):
        hint = (
            f"write {spec.__name__}()" if isinstance(spec, type) else f"such as {base.__name__}()"
        )
        raise ValueError(f"expected spec to be an {base.__name__}, got {spec!r}; {hint}.")
    kind = type(spec)
    unknown = vars(spec).keys() - {field.name for field in dataclasses.fields(spec)}
    if unknown and not {"__dataclass_fields__", "__eq__"} & vars(kind).keys():
        raise ValueError(
            f"expected spec to be a frozen dataclass, got {kind.__name__}, whose attributes "
            f"{sorted(unknown)} are not fields; write @dataclass(frozen=True) above the class. Compiled "
            "programs are reused for specs that are equal."
        )
    if kind.pointwise is base.pointwise and len(spec.activations) != spec.gates:
        raise ValueError(
            f"expected {kind.__name__} to have one activation per gate, got gates = {spec.gates} and "
            f"{len(spec.activations)} activations; set both, and override combine."
        )


def check_params(spec: Any, params: LSTMParams, input_size: int) -> None:
    """The weights are those of the cell, and fit each other and the input."""
    kind, gates = spec.Params, spec.gates
    if not isinstance(params, kind):
        raise ValueError(
            f"expected {kind.__name__}({', '.join(_fields(kind))}), got {type(params).__name__}; for a dict "
            f"of the same names write {kind.__name__}(**params), for several layers call lstm_stack."
        )
    check_registered(type(params))
    if not hasattr(params.w_h, "shape") or not hasattr(params.w_x, "shape"):
        raise ValueError(
            f"expected arrays in {kind.__name__}, got {type(params.w_x).__name__} for w_x and "
            f"{type(params.w_h).__name__} for w_h; convert with jnp.asarray."
        )
    check_declared(spec)
    packed = params.w_h.shape[-1] if len(params.w_h.shape) == 2 else 0
    fields = spec.parameters(input_size, packed // gates)
    if not packed or packed % gates or params.w_h.shape != fields["w_h"][0]:
        want = f"[H, {gates}H]" if gates > 1 else "[H, H]"
        raise ValueError(
            f"expected w_h of shape {want}, the cell's {gates} gate blocks side by side, got "
            f"{params.w_h.shape}; if it is transposed pass w_h.T, and check the spec."
        )
    if params.w_x.shape != fields["w_x"][0]:
        raise ValueError(
            f"expected w_x of shape {fields['w_x'][0]} for an input of size {input_size} "
            f"and w_h of shape {params.w_h.shape}, got {params.w_x.shape}; check the last axis "
            "of the input, and that both weights belong to one layer."
        )
    may_be_none = [f.name for f in dataclasses.fields(kind) if f.default is None]
    for name, (shape, _) in fields.items():
        value = getattr(params, name)
        if value is None and name in may_be_none:
            continue
        got = getattr(value, "shape", type(value).__name__)
        if got != tuple(shape):
            hint = (
                "PyTorch's two biases are added: bias_ih + bias_hh"
                if name == "bias"
                else f"it is what {type(spec).__name__}.parameters says"
            )
            raise ValueError(f"expected {name} of shape {tuple(shape)}, got {got}; {hint}.")


def check_declared(spec: Any) -> None:
    """``spec.parameters`` names the fields of ``spec.Params``."""
    given = spec.parameters(1, 1).keys()
    fields = dataclasses.fields(spec.Params)
    needed = {f.name for f in fields if f.default is dataclasses.MISSING}
    if not needed <= given <= {f.name for f in fields}:
        raise ValueError(
            f"expected {type(spec).__name__}.parameters to describe the fields {_fields(spec.Params)} of "
            f"{spec.Params.__name__}, got {sorted(given)}; fields with a default may be left out."
        )


def check_registered(kind: type) -> None:
    """``kind``, a subclass of ``LSTMParams``, is a pytree of its fields."""
    if not jax.tree_util.all_leaves([kind(**dict.fromkeys(_fields(kind), 0))]):
        return
    raise ValueError(
        f"expected {kind.__name__} to be a pytree, got a dataclass that is not registered; write "
        "@jax.tree_util.register_dataclass above @dataclass(frozen=True)."
    )


def _fields(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def check_state(name: str, state: LSTMState, types: LSTMState, *, shared: bool = False) -> None:
    """``state`` has the shapes of ``types``; if it may be ``shared``, also without batch axes."""
    if not isinstance(state, LSTMState):
        raise ValueError(
            f"expected {name} to be an LSTMState, got {type(state).__name__}; write "
            "LSTMState(C=cell_state, h=hidden_state), by name, since the order differs between "
            "libraries."
        )
    for field, value, want in zip(LSTMState._fields, state, types, strict=True):
        got = None if value is None else jnp.shape(value)
        fits = _fitting(want, shared)
        if got not in fits:
            shapes = " or ".join(str(shape) for shape in dict.fromkeys(fits))
            raise ValueError(f"expected {name}.{field} of shape {shapes}, got {got}.")
        if value is not None:
            check_floating(f"{name}.{field}", jnp.result_type(value))


def check_carried(C: jax.Array | None) -> None:
    """C, which keeps its dtype from step to step, is wide enough to be summed in."""
    if C is not None and jnp.finfo(C.dtype).bits < 32:
        raise ValueError(
            f"expected state.C in float32 or float64, got {C.dtype}, in which small addends are lost; "
            "pass state.C.astype(jnp.float32). Only h is in the compute dtype."
        )


def _fitting(want: Any, shared: bool) -> tuple[Any, ...]:
    if want is None:
        return (None,)
    return (want.shape, want.shape[-1:]) if shared else (want.shape,)


def check_lengths(lengths: jax.Array, xs_shape: Shape) -> None:
    """``lengths`` is ``[*B]``, integers."""
    batch = xs_shape[1:-1]
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(
            f"expected lengths to be integers, got {lengths.dtype}; lengths.astype(int), or for "
            "a mask that is True at real steps mask.sum(axis=0)."
        )
    if lengths.shape != batch:
        batch_first = lengths.shape == (xs_shape[0], *xs_shape[2:-1])
        hint = " For batch-first inputs pass xs.swapaxes(0, 1)." if batch_first else ""
        raise ValueError(
            f"expected lengths of shape {batch}, one per sequence of xs, whose shape {xs_shape} is read "
            f"as [T, *B, I], got {lengths.shape}.{hint}"
        )


def check_resets(resets: jax.Array, shape: Shape) -> None:
    """``resets`` is ``[T, *B]``, bool."""
    if resets.dtype != jnp.bool_:
        raise ValueError(
            f"expected resets to be bool, got {resets.dtype}; True at t starts a new segment at "
            "t, so convert with resets.astype(bool), or `segment_ids != previous_ids`."
        )
    if resets.shape != shape:
        raise ValueError(
            f"expected resets of shape {shape}, one flag a step and sequence, time first, got "
            f"{resets.shape}."
        )


def check_memory(remat_every: int | None, residuals: str, T: Any) -> None:
    """What is kept for the backward pass is something that can be kept."""
    if residuals not in ("save", "recompute"):
        raise ValueError(f"expected residuals to be 'save' or 'recompute', got {residuals!r}.")
    if remat_every is None:
        return
    if not isinstance(remat_every, int) or isinstance(remat_every, bool) or remat_every < 1:
        raise ValueError(
            f"expected remat_every to be a number of steps, at least 1, or None, got {remat_every!r}."
        )
    if not isinstance(T, int):
        raise ValueError(
            f"remat_every needs a known number of steps, got T = {T}; export with a fixed T, or "
            "without remat_every, which changes the memory of gradients alone."
        )
