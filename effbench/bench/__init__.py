"""Measures how fast a model answers with each backend, in processes that take turns, and names the best of them."""
