"""What a model shows without being changed: hooks on it."""
