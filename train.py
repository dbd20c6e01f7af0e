"""Trains an LSTM: ``python train.py [CONFIG.py] [--field.name VALUE ...]``; see ``--help``."""

import sys
from pathlib import Path

from lstm_jax.training.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], default_config=Path(__file__).parent / "configs" / "char_lm.py"))
