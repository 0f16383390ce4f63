"""Similarity to a target set: encoders, target sets, scorers, and the process that scores ahead of the trainer."""
