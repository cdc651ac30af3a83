"""python -m effbench, which torchrun needs."""

import sys

from effbench.cli import main

if __name__ == "__main__":
    sys.exit(main())
