"""Small files in the form of the real data sets of the standard mixture."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

from benchmarks import mixtures


def write_small_mixture(folder: Path) -> Path:
    """Files with words of their own, in an existing folder."""
    rng = random.Random(0)
    for name in "+".join(mixtures.STANDARD).split("+"):
        if name == "garbage":
            continue
        train, test = (340, 410) if name == mixtures.MATHS else (84, 110)
        rows = rows_of(name, "train", train, rng) + rows_of(name, "test", test, rng)
        if name == "genesis_multilingual":
            rows += [{**row, "domain": mixtures.ENGLISH_GENESIS} for row in rows_of("english", "train", 60, rng)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    return folder


def rows_of(name: str, split: str, count: int, rng: random.Random) -> list[dict[str, str]]:
    words = [f"{name[:4]}{i}" for i in range(60)] + [f"word{i}" for i in range(60)]
    texts = [" ".join(rng.choices(words, k=40)) for _ in range(count)]
    return [{"text": text, "split": split, "domain": name} for text in texts]
