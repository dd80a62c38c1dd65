"""Run a model on a data set: `python run_recbole_soft.py --help`."""

import sys

from recbole_soft.cli import main

if __name__ == "__main__":
    sys.exit(main())
