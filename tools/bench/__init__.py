"""The benchmark of training: `python -m tools.bench`."""
