"""What is remembered per sample id: an embedded, memory-mapped store."""

from weighted_stream.store.weight_store import WeightStore

__all__ = ["WeightStore"]
