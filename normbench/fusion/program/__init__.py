"""A compiled program as one graph of values: through its fusions, loops, branches and calls."""
