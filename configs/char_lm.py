from lstm_jax.training.config import Experiment

config = Experiment(name="char_lm")
