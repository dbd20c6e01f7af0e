"""The trainer's command line.

python train.py [CONFIG.py] [--field.name VALUE ...]    (see --help)
python train.py evaluate RUN
python train.py generate RUN
"""

import sys
from pathlib import Path

try:
    from lstm_jax.training.cli import main
    from lstm_jax.training.monitoring.console import exit_process
except ModuleNotFoundError as error:
    print(
        f"error: {error.name} is not installed for {sys.executable}; run pip install -e '.[train]', "
        "or use the Python of the environment where you did.",
        file=sys.stderr,
    )
    sys.exit(2)

if __name__ == "__main__":
    exit_process(
        main(sys.argv[1:], default_config=Path(__file__).parent / "configs" / "quickstart.py")
    )
