"""Shards on disk: converting to them, scoring them, and what was scored."""
