"""The embedded Reber grammar: the second symbol of a string is repeated as its last but one symbol.

    python train.py configs/reber.py

On 2 cores: 15 s. The repeated symbol is predicted in all 1,000 strings of the validation set (majority class:
52 %).
"""

from lstm_jax.training.config import Data, Experiment, Model, Optimizer, Train

config = Experiment(
    name="reber",
    model=Model(hidden_size=32, embedding_size=8),
    data=Data(task="reber", sequence_length=40, batch_size=32),
    optimizer=Optimizer(name="adam", learning_rate=1e-2, warmup_steps=50),
    train=Train(
        steps=1000, log_every=100, eval_every=100, checkpoint_every=500, steps_per_dispatch=20
    ),
)
