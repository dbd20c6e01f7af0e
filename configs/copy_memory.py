"""Copy memory: ten symbols, 50 blanks, then say the symbols again.

    python train.py configs/copy_memory.py

On 2 cores: 4 min; 0.091 nats a step on fresh sequences, and 71 % of the ten symbols right (without memory:
0.297 nats, 12.5 %). Not solved in that time.
"""

from lstm_jax.training.config import Data, Experiment, Model, Optimizer, Train

config = Experiment(
    name="copy_memory",
    model=Model(hidden_size=128, embedding_size=16, chrono=70),
    data=Data(task="copy", sequence_length=50, batch_size=64),
    optimizer=Optimizer(name="adam", learning_rate=5e-3, warmup_steps=50),
    train=Train(
        steps=4000, log_every=400, eval_every=400, checkpoint_every=2000, steps_per_dispatch=20
    ),
)
