"""Fixtures of several files."""

from tests.compress.searches import beside, made

__all__ = ["beside", "made"]
