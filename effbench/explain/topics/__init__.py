"""The topics: one module each, with a function `explain(request) -> Explanation`."""
