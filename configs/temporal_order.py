"""The temporal order task: classify the order of two distant symbols in sequences of 110 steps.

    python train.py configs/temporal_order.py

Source: experiment 6a of Hochreiter & Schmidhuber (1997), Long short-term memory. On 2 cores: 25 s. Accuracy
100 % on the 1,000 sequences of the validation set (majority class: 27 %).
"""

from lstm_jax.training.config import Data, Experiment, Model, Optimizer, Train

config = Experiment(
    name="temporal_order",
    model=Model(hidden_size=64, embedding_size=16, chrono=110),
    data=Data(task="temporal_order", sequence_length=110, batch_size=32),
    optimizer=Optimizer(name="adam", learning_rate=5e-3, warmup_steps=50),
    train=Train(
        steps=1000, log_every=100, eval_every=100, checkpoint_every=500, steps_per_dispatch=20
    ),
)
