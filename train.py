"""Trains an LSTM: ``python train.py [CONFIG.py] [--field.name VALUE ...]``; see ``--help``.

Also ``python train.py evaluate RUN`` and ``python train.py generate RUN``.
"""

import sys
from pathlib import Path

from lstm_jax.training.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], default_config=Path(__file__).parent / "configs" / "quickstart.py"))
