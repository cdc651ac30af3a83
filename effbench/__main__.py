"""python -m effbench, for torchrun."""

import sys

from effbench.cli import main

if __name__ == "__main__":
    sys.exit(main())
