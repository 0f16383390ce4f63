"""Trainers: thin adapters, each of which imports its framework in one file."""
