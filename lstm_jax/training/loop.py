"""Trains a language model and says how it goes."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lstm_jax.training.config import Data, Experiment
from lstm_jax.training.data.corpus import read_corpus
from lstm_jax.training.data.stream import check_length, evaluation_batches, training_batch
from lstm_jax.training.data.vocabulary import Vocabulary
from lstm_jax.training.generate import generate
from lstm_jax.training.metrics import Clock, bits, duration
from lstm_jax.training.model import LanguageModel
from lstm_jax.training.ngram import NGram
from lstm_jax.training.optimizer import make_optimizer
from lstm_jax.training.state import TrainState
from lstm_jax.training.step import make_evaluation, make_train_steps

EVALUATION_ROWS = 8
"""The held-out text is read in so many rows at once, each from a zero state."""
SAMPLE_LENGTH = 400
SAMPLE_TEMPERATURE = 0.7


def train(experiment: Experiment) -> dict[str, float]:
    """Runs an experiment and prints its progress.

    Returns:
      Bits a character on the held-out text: of the model, and of each baseline.

    Raises:
      ConfigError: if the data cannot be used.
    """
    started = time.monotonic()
    data, run, seed = experiment.data, experiment.train, experiment.seed
    corpus = read_corpus(data.path)
    vocabulary = Vocabulary.of(corpus.train)
    train_ids, held_out_ids = vocabulary.encode(corpus.train), vocabulary.encode(corpus.held_out)
    check_length(train_ids, data.batch_size, data.sequence_length)
    print(
        f"{experiment.name}: {corpus.name}\n{len(train_ids):,} characters to learn from, "
        f"{len(held_out_ids):,} held out, {len(vocabulary)} symbols"
    )
    figures = baselines(train_ids, held_out_ids, len(vocabulary))
    print(f"before any training, held out: {describe(figures)}")

    model = LanguageModel(len(vocabulary), experiment.model, rngs=nnx.Rngs(seed))
    graphdef, params = nnx.split(model)
    optimizer = make_optimizer(experiment.optimizer, run.steps)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        carry=model.initialize_carry(data.batch_size),
    )
    train_steps = make_train_steps(graphdef, optimizer, seed, data.reset_probability)
    held_out = held_out_bits(graphdef, model, held_out_ids, data)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(f"{size:,} parameters, {run.steps:,} steps of {data.batch_size} x {data.sequence_length}")

    clock = Clock(run.steps, data.batch_size * data.sequence_length)
    for done, batches in dispatches(train_ids, experiment):
        state, metrics = train_steps(state, batches)
        if not clock.running:
            jax.block_until_ready(metrics)
            clock.start(done)  # from here on, so that compilation is left out
        if done % run.log_every == 0:
            loss, norm = float(metrics["loss"]), float(metrics["gradient_norm"])
            print(
                f"step {done:>6,}  train {bits(loss):.3f} bits a character  "
                f"gradient norm {norm:.2f}  {clock.reading(done)}",
                flush=True,
            )
        if done % run.eval_every == 0 or done == run.steps:
            with clock.paused():
                figures["model"] = held_out(state.params)
            print(f"step {done:>6,}  held out: {describe(figures)}", flush=True)

    prompt = corpus.held_out[: corpus.held_out.index(" ") + 1]
    key = jax.random.key(seed)
    print(f"\na sample at temperature {SAMPLE_TEMPERATURE}, after {prompt!r}:\n")
    print(
        generate(
            graphdef,
            state.params,
            vocabulary,
            prompt,
            SAMPLE_LENGTH,
            temperature=SAMPLE_TEMPERATURE,
            key=key,
        )
    )
    print(f"\n{duration(time.monotonic() - started)} in all; held out: {describe(figures)}")
    return figures


def baselines(train_ids: np.ndarray, held_out_ids: np.ndarray, V: int) -> dict[str, float]:
    """Bits a character that need no network: counts of characters, and of five in a row."""
    return {
        f"{name} baseline": NGram(train_ids, V, order).bits(held_out_ids)
        for name, order in (("unigram", 1), ("5-gram", 5))
    }


def describe(figures: dict[str, float]) -> str:
    """Held-out figures in a line, the model first."""
    order = sorted(figures, key=lambda name: name != "model")
    return ", ".join(f"{name} {figures[name]:.3f}" for name in order) + " bits a character"


def dispatches(ids: np.ndarray, experiment: Experiment) -> Iterator[tuple[int, np.ndarray]]:
    """For each call of the compiled function: steps done after it, and its batches."""
    data, n = experiment.data, experiment.train.steps_per_dispatch
    for first in range(0, experiment.train.steps, n):
        batches = [
            training_batch(ids, data.batch_size, data.sequence_length, experiment.seed, step)
            for step in range(first, first + n)
        ]
        yield first + n, np.stack(batches)


def held_out_bits(
    graphdef: Any, model: LanguageModel, ids: np.ndarray, data: Data
) -> Callable[[Any], float]:
    """``params -> bits a character`` over the whole held-out text."""
    chunks, weights = evaluation_batches(ids, EVALUATION_ROWS, data.sequence_length)
    carry = model.initialize_carry(EVALUATION_ROWS)
    evaluate = make_evaluation(graphdef)
    return lambda params: bits(float(evaluate(params, carry, chunks, weights)))
