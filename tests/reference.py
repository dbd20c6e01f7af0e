"""Reference implementation of the LSTM's equations, in float64 NumPy with Python loops.

It shares no code with lstm_jax.
"""

import numpy as np


def sigma(x):
    return 1.0 / (1.0 + np.exp(-x))


def cell(p, C, h, x):
    """Computes the six equations. ``p`` has W_f, W_i, W_C, W_o ``[H, H + I]`` and b_f, b_i, b_C, b_o."""
    hx = np.concatenate([h, x])
    f = sigma(p["W_f"] @ hx + p["b_f"])
    i = sigma(p["W_i"] @ hx + p["b_i"])
    C_tilde = np.tanh(p["W_C"] @ hx + p["b_C"])
    C = f * C + i * C_tilde
    o = sigma(p["W_o"] @ hx + p["b_o"])
    h = o * np.tanh(C)
    return C, h


def lstm(p, xs, state, *, lengths=None, resets=None, reset_state=None, reverse=False):
    """Runs one layer, sequence by sequence and step by step. States are pairs ``(C, h)`` of ``[*B, H]``."""
    T, *batch, _ = xs.shape
    C_out, h_out = np.array(state[0]), np.array(state[1])
    hs = np.zeros((T, *batch, C_out.shape[-1]))
    for b in np.ndindex(*batch):
        C, h = C_out[b], h_out[b]
        n = T if lengths is None else int(np.clip(lengths[b], 0, T))
        for t in reversed(range(n)) if reverse else range(n):
            boundary = resets is not None and resets[(t, *b)]
            if boundary and not reverse:
                C, h = reset_state[0][b], reset_state[1][b]
            C, h = cell(p, C, h, xs[(t, *b)])
            hs[(t, *b)] = h
            if boundary and reverse:
                C, h = reset_state[0][b], reset_state[1][b]
        C_out[b], h_out[b] = C, h
    return (C_out, h_out), hs


def stack(ps, xs, states, *, directions=1, reset_states=None, reverse=False, **keywords):
    """Runs layers and directions, in the order l0f, l0b, l1f, ..."""
    finals, below = [], xs
    for layer in range(len(ps) // directions):
        outputs = []
        for d in range(directions):
            n = layer * directions + d
            final, hs = lstm(
                ps[n],
                below,
                states[n],
                reset_state=None if reset_states is None else reset_states[n],
                reverse=reverse != (d == 1),
                **keywords,
            )
            finals.append(final)
            outputs.append(hs)
        below = np.concatenate(outputs, axis=-1)
    return finals, below
