"""Checks of arguments at trace time, from shapes and dtypes. Errors say how to fix the call."""

import dataclasses
import operator
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.notation import LSTMParams, LSTMState, P, Shape


def check_xs(xs: Any) -> jax.Array:
    """Returns ``xs`` as an array, checked to be ``[T, *B, I]`` and real."""
    xs = as_array("xs", xs)
    if xs.ndim < 2:
        raise ValueError(
            f"expected xs of shape [T, *B, I], time first, got shape {xs.shape}; for a single "
            "time step call lstm_cell, or add the axis with xs[None]."
        )
    check_floating("xs", xs.dtype)
    return xs


def check_x(x: Any) -> jax.Array:
    """Returns ``x`` as an array, checked to be ``[*B, I]`` and real."""
    x = as_array("x", x)
    if x.ndim < 1:
        raise ValueError("expected x of shape [*B, I], got a scalar; write x[None] for I = 1.")
    check_floating("x", x.dtype)
    return x


def as_array(name: str, value: Any) -> jax.Array:
    """Returns ``value`` as a JAX array, also from the arrays of other libraries.

    Raises:
      ValueError: If JAX cannot convert it, such as parameters in place of inputs.
    """
    if isinstance(value, LSTMParams | LSTMState):
        raise ValueError(
            f"expected {name} to be an array, got {type(value).__name__}; the order of arguments is "
            "lstm(params, xs, state) and lstm_cell(params, state, x)."
        )
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"expected {name} to be an array, got {type(value).__name__}: {error}"
        ) from error


COMPLEX_FEATURES = "take real and imaginary parts as features"
INTEGER_FEATURES = (
    "embed ids or one-hot them (jax.nn.one_hot), cast other integers with .astype(float32)"
)


def check_floating(
    name: str, dtype: Any, if_complex: str = COMPLEX_FEATURES, if_integer: str = INTEGER_FEATURES
) -> None:
    """Checks that ``dtype`` is a real floating point type of at least 16 bits.

    Args:
      name: The name of the argument.
      dtype: Its dtype.
      if_complex: How to fix a complex one.
      if_integer: How to fix one of integers or booleans.
    """
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise ValueError(f"expected {name} to be real, got {dtype}; {if_complex}.")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"expected {name} to be floating point, got {dtype}; {if_integer}.")
    if jnp.finfo(dtype).bits < 16:
        raise ValueError(
            f"expected {name} to have at least 16 bits, got {dtype}, in which the gates have few values; "
            "cast with .astype(jnp.bfloat16)."
        )


def type_name(value: Any) -> str:
    """The name of a value's type with its module, by which types of one name can be told apart."""
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def check_size(name: str, value: Any) -> int:
    """Returns a size as Python's int, also from NumPy's, checked to be at least 1."""
    try:
        size = operator.index(value)
    except TypeError:
        size = 0
    if size < 1 or isinstance(value, bool):
        raise ValueError(f"expected {name} to be an integer, at least 1, got {value!r}.")
    return size


def check_bool(name: str, value: Any) -> bool:
    """Returns ``value`` as Python's bool, also from NumPy's or 0 and 1, checked to be known when tracing."""
    is_flag = type(value).__name__ in ("bool", "bool_") or (
        isinstance(value, int) and value in (0, 1)
    )
    if not is_flag:
        raise ValueError(
            f"expected {name} to be True or False when the program is traced, got {value!r}; it selects the "
            "program. For an argument of a jitted function list it in static_argnames."
        )
    return bool(value)


def check_dropout(name: str, rate: Any) -> float:
    """Returns a dropout rate as Python's float, checked to be in ``[0, 1)`` and known when tracing."""
    if isinstance(rate, jax.core.Tracer):
        raise ValueError(
            f"expected {name} to be a number when the program is traced, got {rate}; 0 leaves the dropout "
            "out of the program. List it in static_argnames of jax.jit, or pass it as a Python number."
        )
    try:
        value = float(rate)
    except TypeError:
        value = -1.0
    if not 0.0 <= value < 1.0:
        raise ValueError(f"expected {name} to be in [0, 1), got {rate!r}.")
    return value


def check_spec(spec: Any, base: Any) -> None:
    """``spec`` is an instance of ``base`` whose fields tell it from any other."""
    if not isinstance(spec, base):
        name = spec.__name__ if isinstance(spec, type) else base.__name__
        got = f"the class {name}" if isinstance(spec, type) else repr(spec)
        raise ValueError(f"expected spec to be an {base.__name__}, got {got}; write spec={name}().")
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


def check_params(spec: Any, params: P, input_size: int) -> P:
    """Returns the parameters as JAX arrays, checked to be those of the cell, and to fit the input."""
    kind, gates = spec.Params, spec.gates
    if not isinstance(params, kind):
        raise ValueError(
            f"expected {kind.__name__}({', '.join(_fields(kind))}), got {type(params).__name__}; for a dict "
            f"of the same names write {kind.__name__}(**params), for several layers call lstm_stack."
        )
    check_registered(type(params))
    check_declared(spec)
    params = _as_arrays(params)
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
    for name, (shape, _) in fields.items():
        value = getattr(params, name)
        if value is not None and value.shape != tuple(shape):
            hint = (
                "PyTorch's two biases are added: bias_ih + bias_hh"
                if name == "bias"
                else f"see {type(spec).__name__}.parameters"
            )
            raise ValueError(f"expected {name} of shape {tuple(shape)}, got {value.shape}; {hint}.")
    return params


def _as_arrays(params: P) -> P:
    """The parameters as JAX arrays. Only a field whose default is None may be None."""
    arrays = {}
    for field in dataclasses.fields(params):
        value = getattr(params, field.name)
        if value is None and field.default is None:
            continue
        is_array = hasattr(value, "shape")  # also a scalar of NumPy, which may be a float
        if value is None or (not is_array and isinstance(value, list | tuple | int | float)):
            hint = "init_lstm draws it" if value is None else "convert it with jnp.asarray"
            raise ValueError(
                f"expected {field.name} of {type(params).__name__} to be an array, got "
                f"{type(value).__name__}; {hint}."
            )
        arrays[field.name] = as_array(field.name, value)
        check_floating(
            field.name,
            arrays[field.name].dtype,
            if_complex="a weight is real, take .real",
            if_integer="cast it with .astype(jnp.float32)",
        )
    return params.replace(**arrays)


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


def check_state(name: str, state: Any, types: LSTMState, *, shared: bool = False) -> None:
    """Checks that ``state`` has the shapes of ``types``; if it may be ``shared``, also without batch axes."""
    if not isinstance(state, LSTMState):
        raise ValueError(
            f"expected {name} to be an lstm_jax.LSTMState, got {type_name(state)}; write "
            "LSTMState(C=cell_state, h=hidden_state), by name, since the order differs between libraries."
        )
    for field, value, want in zip(LSTMState._fields, state, types, strict=True):
        given: Any = value
        if isinstance(given, list | tuple):
            raise ValueError(
                f"expected {name}.{field} to be an array, got {type(given).__name__}; convert it with "
                "jnp.asarray."
            )
        got = None if value is None else jnp.shape(value)
        fits = _fitting(want, shared)
        if got not in fits:
            shapes = " or ".join(str(shape) for shape in dict.fromkeys(fits))
            hint = "" if want is None or not got else _hint(name, got, want.shape)
            raise ValueError(f"expected {name}.{field} of shape {shapes}, got {got}{hint}.")
        if value is not None:
            if_integer = "cast it with .astype(jnp.float32)"
            check_floating(f"{name}.{field}", jnp.result_type(value), if_integer=if_integer)


def _hint(name: str, got: Shape, want: Shape) -> str:
    """How to fix a state of the wrong shape, where it can be told."""
    if got[1:] == want:
        return (
            "; its first axis is one that the input does not have: a batch axis, time (for one step write "
            "xs[None]), or that of the states of several layers, which are split by "
            f"[LSTMState({name}.C[n], {name}.h[n]) for n in range({got[0]})]"
        )
    if got[-1] != want[-1]:
        return f"; the layer has hidden size {want[-1]}, the state {got[-1]}"
    return ""


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
            f"expected resets to be bool, got {resets.dtype}; True at t starts a new segment at t. Write "
            "dones.astype(bool) for flags 0 and 1, segment_ids != previous_ids for ids."
        )
    if resets.shape != shape:
        raise ValueError(
            f"expected resets of shape {shape}, one flag a step and sequence, time first, got "
            f"{resets.shape}."
        )
