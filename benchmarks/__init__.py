"""What backs every figure in the README: `python -m benchmarks` runs all of it."""
