"""A language model of 5.4 billion parameters for 256 chips, with sharded parameters and optimizer state.

    python train.py configs/pod_lm.py --data.path FILE

The model was never trained. This command checks without a TPU that it fits, after
`pip install -e '.[tpu-aot]'`, in about two minutes on 2 cores with 1.5 GB of memory:

    python train.py configs/pod_lm.py --compile-for v5e:16x16
"""

from lstm_jax.training.config import Data, Experiment, Mesh, Model, Optimizer, Train

config = Experiment(
    name="pod_lm",
    model=Model(hidden_size=8192, num_layers=9, embedding_size=8192, dropout=0.1, dtype="bfloat16"),
    data=Data(unit="word", vocabulary_size=32_000, batch_size=4096, sequence_length=256),
    optimizer=Optimizer(name="adamw", learning_rate=3e-4, schedule="cosine", warmup_steps=1000),
    train=Train(
        steps=20_000, log_every=10, eval_every=500, checkpoint_every=500, steps_per_dispatch=1
    ),
    mesh=Mesh(parameters="sharded"),
)
