"""Builders of a run's parts; use them through effbench.build."""
