"""The proof that a killed run loses nothing: `python -m tests.torture`, and shortened as tests.

crash_loop      runs killed at random moments, half of them inside a save, until they finish
system_calls    one save killed at each of its system calls
damage          flipped bits and cut files
mutants         the resume code broken on purpose, one line at a time: each must be noticed by the above
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: one thread adds up in one order
