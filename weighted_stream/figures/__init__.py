"""Figures of a run while it trains: what was just weighed, where it is logged, a running store that is followed."""
