"""What is remembered per sample id: an embedded, memory-mapped store, and one that machines share."""

from weighted_stream.store.shared_store import SharedStore
from weighted_stream.store.weight_store import WeightStore

__all__ = ["SharedStore", "WeightStore"]
