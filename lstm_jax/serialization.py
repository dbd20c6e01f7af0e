"""Registers :class:`~lstm_jax.LSTMParams` with ``flax.serialization``.

Both Flax modules import it. The core functions do not depend on Flax.
"""

from typing import Any

from flax import serialization

from lstm_jax.notation import LSTMParams


def _to_state_dict(params: LSTMParams) -> dict[str, Any]:
    return {name: serialization.to_state_dict(value) for name, value in vars(params).items()}


def _from_state_dict(params: LSTMParams, state: dict[str, Any]) -> LSTMParams:
    restored = {
        name: serialization.from_state_dict(value, state[name], name=name)
        for name, value in vars(params).items()
    }
    return params.replace(**restored)


serialization.register_serialization_state(LSTMParams, _to_state_dict, _from_state_dict)
