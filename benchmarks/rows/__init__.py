"""One module a row: TITLE, and measure() -> its figures. `python -m benchmarks 7 8` runs rows 7 and 8."""
