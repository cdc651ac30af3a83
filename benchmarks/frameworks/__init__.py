"""effbench's loop beside other frameworks' on one task: python -m benchmarks.frameworks [--only NAME] [--json FILE]"""
