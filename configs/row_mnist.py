"""MNIST, one row of pixels a step; also by pixels (--data.image-order pixels, or permuted).

    python train.py configs/row_mnist.py --data.path FOLDER

FOLDER holds the four IDX files (train-images-idx3-ubyte and so on, gzipped or not); name:mnist in its
place fetches them. On 2 cores: 4 min 25 s; 98.9 % of the test images, read once with the parameters that
were best on 5,000 held-out ones.
"""

from pathlib import Path

from lstm_jax.training.config import Data, Experiment, Model, Optimizer, Train

config = Experiment(
    name="row_mnist",
    model=Model(hidden_size=192, dropout=0.2),
    data=Data(task="images", path=Path("data/mnist"), image_order="rows", batch_size=128),
    optimizer=Optimizer(name="adamw", learning_rate=3e-3, weight_decay=0.01, warmup_steps=200),
    train=Train(
        steps=6000, log_every=500, eval_every=1000, checkpoint_every=2000, steps_per_dispatch=20
    ),
)
