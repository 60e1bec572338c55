"""The command line, as ``python -m plasticity``."""

import sys

from plasticity.cli import main

if __name__ == "__main__":
    sys.exit(main())
