"""The demo: a small GPT trained on weighted real text, from shards; also what the benchmarks train."""
