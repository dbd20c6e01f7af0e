"""The adding problem: two of 200 numbers are marked; what is their sum?

    python train.py configs/adding.py

ADDING
"""

from lstm_jax.training.config import Data, Experiment, Model, Optimizer, Train

config = Experiment(
    name="adding",
    model=Model(hidden_size=64, chrono=200),
    data=Data(task="adding", sequence_length=200, batch_size=64),
    optimizer=Optimizer(name="adam", learning_rate=5e-3, schedule="cosine", warmup_steps=50),
    train=Train(
        steps=1200, log_every=200, eval_every=200, checkpoint_every=600, steps_per_dispatch=20
    ),
)
