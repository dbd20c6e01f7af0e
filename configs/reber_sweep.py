"""A sweep over the learning rate and the hidden size of the model of configs/reber.py.

    python train.py configs/reber_sweep.py --sweep

On 2 busy cores: 3 min 49 s (1 min 19 s of processor time) for six runs. Accuracy after 400 steps on the 1,000
strings of the validation set:

    learning rate    16 units    32 units
    0.003            52 %        99.7 %
    0.01             75 %        100 %
    0.03             100 %       100 %

A search samples the same fields from ranges. It requires Optuna (pip install -e '.[search]'):

    python train.py configs/reber_sweep.py --search 10
"""

from lstm_jax.training.config import Data, Experiment, Model, Optimizer, Range, Train

config = Experiment(
    name="reber_sweep",
    model=Model(hidden_size=32, embedding_size=8),
    data=Data(task="reber", sequence_length=40, batch_size=32),
    optimizer=Optimizer(name="adam", learning_rate=1e-2, warmup_steps=50),
    train=Train(
        steps=400, log_every=100, eval_every=100, checkpoint_every=400, steps_per_dispatch=20
    ),
)

sweep = {
    "optimizer.learning_rate": [3e-3, 1e-2, 3e-2],
    "model.hidden_size": [16, 32],
}

search = {
    "optimizer.learning_rate": Range(1e-3, 1e-1, log=True),
    "model.hidden_size": [16, 32],
}
