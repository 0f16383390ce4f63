"""Long runs that try to break the library: `make soak`, or `python -m tools.soak --help`."""
