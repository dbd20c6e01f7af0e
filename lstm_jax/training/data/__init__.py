"""Datasets."""


def make_dataset(config):
    from lstm_jax.training.data.tasks import make_dataset

    return make_dataset(config.data, config.seed)
