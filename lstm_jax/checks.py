"""Validation of arguments at trace time, by shape and dtype. Errors say how to fix the call."""

import dataclasses
import operator
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.notation import LSTMParams, LSTMState, P, Shape


def check_xs(xs: Any) -> jax.Array:
    """Returns ``xs`` as an array, after checking that it has shape ``[T, *B, I]`` and a real dtype."""
    xs = as_array("xs", xs)
    if xs.ndim < 2:
        raise ValueError(
            f"expected xs of shape [T, *B, I], time first, got shape {xs.shape}; for a single "
            "time step call lstm_cell, or add the axis with xs[None]."
        )
    check_floating("xs", xs.dtype)
    return xs


def check_x(x: Any) -> jax.Array:
    """Returns ``x`` as an array, after checking that it has shape ``[*B, I]`` and a real dtype."""
    x = as_array("x", x)
    if x.ndim < 1:
        raise ValueError("expected x of shape [*B, I], got a scalar; write x[None] for I = 1.")
    check_floating("x", x.dtype)
    return x


def as_array(name: str, value: Any) -> jax.Array:
    """Converts ``value``, such as an array of another library, to a JAX array.

    Raises:
      ValueError: If JAX cannot convert it, for example because parameters were passed as inputs.
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


COMPLEX_FEATURES = "pass its real and imaginary parts as features"
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
      if_complex: The hint of the message for a complex dtype.
      if_integer: The hint of the message for an integer or boolean dtype.
    """
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise ValueError(f"expected {name} to be real, got {dtype}; {if_complex}.")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"expected {name} to be floating point, got {dtype}; {if_integer}.")
    if jnp.finfo(dtype).bits < 16:
        raise ValueError(
            f"expected {name} to have at least 16 bits, got {dtype}, which is too coarse for the gates; "
            "cast it with .astype(jnp.bfloat16)."
        )


def type_name(value: Any) -> str:
    """Returns the name of a value's type with its module, which distinguishes types of the same name."""
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def check_size(name: str, value: Any) -> int:
    """Converts a size to a Python int, after checking that it is an integer of at least 1."""
    try:
        size = operator.index(value)
    except TypeError:
        size = 0
    if size < 1 or isinstance(value, bool):
        raise ValueError(f"expected {name} to be an integer of at least 1, got {value!r}.")
    return size


def check_bool(name: str, value: Any) -> bool:
    """Converts a bool of Python or NumPy, or 0 or 1, to a Python bool. Tracers are refused."""
    is_flag = type(value).__name__ in ("bool", "bool_") or (
        isinstance(value, int) and value in (0, 1)
    )
    if not is_flag:
        raise ValueError(
            f"expected {name} to be True or False at trace time, got {value!r}; it selects the program that "
            "is traced. List an argument of a jitted function in static_argnames."
        )
    return bool(value)


def check_dropout(name: str, rate: Any) -> float:
    """Converts a dropout rate to a Python float, after checking that it is in ``[0, 1)``.

    Tracers are refused.
    """
    if isinstance(rate, jax.core.Tracer):
        raise ValueError(
            f"expected {name} to be a number at trace time, got {rate}; a program without dropout is another "
            "program. List it in static_argnames of jax.jit, or pass it as a Python number."
        )
    try:
        value = float(rate)
    except TypeError:
        value = -1.0
    if not 0.0 <= value < 1.0:
        raise ValueError(f"expected {name} to be in [0, 1), got {rate!r}.")
    return value


def check_spec(spec: Any, base: Any) -> None:
    """Checks that ``spec`` is an instance of ``base``, and that equal specs define equal cells.

    Compiled programs are cached by ``spec``, so all of its attributes must be dataclass fields.
    """
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
            "programs are cached by the fields of the spec."
        )
    if kind.pointwise is base.pointwise and len(spec.activations) != spec.gates:
        raise ValueError(
            f"expected {kind.__name__} to have one activation per gate, got gates = {spec.gates} and "
            f"{len(spec.activations)} activations; set both, and override combine."
        )


def check_params(spec: Any, params: P, input_size: int) -> P:
    """Converts the parameters to JAX arrays, after checking that they fit the cell and the input size."""
    kind, gates = spec.Params, spec.gates
    if not isinstance(params, kind):
        raise ValueError(
            f"expected {kind.__name__}({', '.join(_fields(kind))}), got {type(params).__name__}; for a dict "
            f"of the same names write {kind.__name__}(**params), for several layers call lstm_stack."
        )
    check_registered_pytree(type(params))
    check_parameter_names(spec)
    params = _as_arrays(params)
    packed = params.w_h.shape[-1] if len(params.w_h.shape) == 2 else 0
    fields = spec.parameters(input_size, packed // gates)
    if not packed or packed % gates or params.w_h.shape != fields["w_h"][0]:
        expected = f"[H, {gates}H]" if gates > 1 else "[H, H]"
        raise ValueError(
            f"expected w_h of shape {expected}, the cell's {gates} gate blocks side by side, got "
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
    """Converts the parameters to JAX arrays. Only a field whose default is None may be None."""
    arrays = {}
    for field in dataclasses.fields(params):
        value = getattr(params, field.name)
        if value is None and field.default is None:
            continue
        is_array = hasattr(value, "shape")  # also True for a NumPy scalar, which may be a float
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
            if_complex="weights are real, pass .real",
            if_integer="cast it with .astype(jnp.float32)",
        )
    return params.replace(**arrays)


def check_parameter_names(spec: Any) -> None:
    """Checks that the names in ``spec.parameters`` are the fields of ``spec.Params``."""
    given = spec.parameters(1, 1).keys()
    fields = dataclasses.fields(spec.Params)
    required = {f.name for f in fields if f.default is dataclasses.MISSING}
    if not required <= given <= {f.name for f in fields}:
        raise ValueError(
            f"expected {type(spec).__name__}.parameters to describe the fields {_fields(spec.Params)} of "
            f"{spec.Params.__name__}, got {sorted(given)}; fields with a default may be omitted."
        )


def check_registered_pytree(kind: type) -> None:
    """Checks that ``kind``, a subclass of ``LSTMParams``, is registered as a pytree of its fields."""
    if not jax.tree_util.all_leaves([kind(**dict.fromkeys(_fields(kind), 0))]):
        return
    raise ValueError(
        f"expected {kind.__name__} to be a pytree, got a dataclass that is not registered as one; write "
        "@jax.tree_util.register_dataclass above @dataclass(frozen=True)."
    )


def _fields(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def check_state(name: str, state: Any, types: LSTMState, *, shared: bool = False) -> None:
    """Checks that ``state`` has the shapes of ``types``. With ``shared``, it may have no batch axes."""
    if not isinstance(state, LSTMState):
        raise ValueError(
            f"expected {name} to be an lstm_jax.LSTMState, got {type_name(state)}; write "
            "LSTMState(C=cell_state, h=hidden_state), by name, since the order differs between libraries."
        )
    for field, value, type_ in zip(LSTMState._fields, state, types, strict=True):
        given: Any = value
        if isinstance(given, list | tuple):
            raise ValueError(
                f"expected {name}.{field} to be an array, got {type(given).__name__}; convert it with "
                "jnp.asarray."
            )
        got = None if value is None else jnp.shape(value)
        allowed = _allowed_shapes(type_, shared)
        if got not in allowed:
            shapes = " or ".join(str(shape) for shape in dict.fromkeys(allowed))
            hint = "" if type_ is None or not got else _hint(name, got, type_.shape)
            raise ValueError(f"expected {name}.{field} of shape {shapes}, got {got}{hint}.")
        if value is not None:
            if_integer = "cast it with .astype(jnp.float32)"
            check_floating(f"{name}.{field}", jnp.result_type(value), if_integer=if_integer)


def _hint(name: str, got: Shape, expected: Shape) -> str:
    """Returns how to fix a state of the wrong shape. It is empty if the cause is not clear."""
    if got[1:] == expected:
        return (
            "; the input does not have its first axis, which is a batch axis, time (for one step write "
            "xs[None]), or the axis of several layers, whose states are split by "
            f"[LSTMState({name}.C[n], {name}.h[n]) for n in range({got[0]})]"
        )
    if got[-1] != expected[-1]:
        return f"; the layer has hidden size {expected[-1]}, the state has {got[-1]}"
    return ""


def check_cell_state_dtype(C: jax.Array | None) -> None:
    """Checks that C, which the cell accumulates in its own dtype, has at least float32."""
    if C is not None and jnp.finfo(C.dtype).bits < 32:
        raise ValueError(
            f"expected state.C in float32 or float64, got {C.dtype}, which loses small addends of a long "
            "sum; pass state.C.astype(jnp.float32). Only h has the compute dtype."
        )


def _allowed_shapes(type_: Any, shared: bool) -> tuple[Any, ...]:
    if type_ is None:
        return (None,)
    return (type_.shape, type_.shape[-1:]) if shared else (type_.shape,)


def check_lengths(lengths: jax.Array, xs_shape: Shape) -> None:
    """Checks that ``lengths`` has shape ``[*B]`` and an integer dtype."""
    batch = xs_shape[1:-1]
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(
            f"expected lengths to be integers, got {lengths.dtype}; pass lengths.astype(int), or "
            "mask.sum(axis=0) for a mask that is True at valid steps."
        )
    if lengths.shape != batch:
        batch_first = lengths.shape == (xs_shape[0], *xs_shape[2:-1])
        hint = " For batch-first inputs pass xs.swapaxes(0, 1)." if batch_first else ""
        raise ValueError(
            f"expected lengths of shape {batch}, one per sequence of xs, whose shape {xs_shape} is read "
            f"as [T, *B, I], got {lengths.shape}.{hint}"
        )


def check_resets(resets: jax.Array, shape: Shape) -> None:
    """Checks that ``resets`` has shape ``[T, *B]`` and dtype bool."""
    if resets.dtype != jnp.bool_:
        raise ValueError(
            f"expected resets to be bool, got {resets.dtype}; True at t starts a new segment at t. Write "
            "dones.astype(bool) for flags of 0 and 1, and segment_ids != previous_ids for segment ids."
        )
    if resets.shape != shape:
        raise ValueError(
            f"expected resets of shape {shape}, one flag per step and sequence, time first, got "
            f"{resets.shape}."
        )
