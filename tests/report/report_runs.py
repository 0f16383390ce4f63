"""Small runs with everything in them that a report tells of, and the texts they were trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from weighted_stream import ParquetDataset, WeightStore
from weighted_stream.shards.convert import convert
from weighted_stream.shards.writing import ShardSize
from weighted_stream.sources import source_for

HOSTILE = {
    1: "<script>window.broken = 1</script><img src=x onerror='window.broken = 1'>",
    2: "</script><script>window.broken = 1</script><!-- ]]> &lt;b&gt; @@DATA@@ ${window.broken = 1}",
    3: "null \x00 bell \x07 escape \x1b[31m red\r\nreturn \x7f delete \x85 next",
    4: "right to left: \u202egnp.exe\u202c and \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    5: "one long line " + "m" * 1_000_000,
    6: "line \u2028 and paragraph \u2029 separators, zero\u200bwidth, \ufeff, a lone \udc80 surrogate",
    7: "a\u0301\u0302\u0303\u0304\u0305" * 60,
    8: "javascript:window.broken=1 https://example.org/x.png url(https://example.org/y)",
    9: "",
}


def texts(count: int) -> list[str]:
    """Texts, of which the last quarter repeats the first."""
    first = count - count // 4
    return [f"text {i % first} of some words" for i in range(count)]


def write_shards(folder: Path, some: list[str]) -> Path:
    """Parquet shards of 50 samples; surrogates, which no file of text can hold, are left out."""
    (folder / "data.jsonl").write_text("".join(json.dumps({"text": t.replace("\udc80", "")}) + "\n" for t in some))
    convert(folder / "data.jsonl", folder / "shards", "parquet", size=ShardSize(50, None))
    return folder / "shards"


def train(
    path: Path,
    ids: np.ndarray,
    seed: int = 0,
    *,
    epochs: int = 3,
    batch: int = 20,
    journal: bool = True,
    names: bool = True,
) -> None:
    """A run over some ids: the loss of each falls, but for every seventeenth, which stays high, and every nineteenth,
    which rises; weights go with the losses, and the first sample has one that is not finite.
    """
    rng = np.random.default_rng(seed)
    level = rng.uniform(1, 3, len(ids))
    with WeightStore(path, journal=journal) as store:
        if names:
            store.set_groups(ids, [("code", "prose", "<b>table</b>")[i % 3] for i in range(len(ids))])
        step = 0
        for epoch in range(epochs):
            order = rng.permutation(len(ids))
            for begin in range(0, len(ids), batch):
                some = order[begin : begin + batch]
                losses = level[some] * 0.5**epoch + rng.uniform(0, 0.1, len(some))
                losses[some % 17 == 5] = 9.0
                losses[some % 19 == 7] = 1.0 + 2.0 * epoch
                if epoch == 0:
                    losses[some == 0] = np.nan
                known = np.where(np.isnan(losses), 0, losses)
                weights = known / known.mean()
                store.record(ids[some], losses, weights, step=step)
                step += 1


def a_run(folder: Path, count: int = 300, hostile: bool = False) -> tuple[Path, Path]:
    """A store with a journal and groups, bound to shards: both paths."""
    some = texts(count)
    if hostile:
        for place, text in HOSTILE.items():
            some[place] = text
    shards = write_shards(folder, some)
    source = source_for(ParquetDataset(shards))
    ids = np.array([key for key, _ in source.dataset])
    with WeightStore(folder / "store") as store:
        store.bind(source.fingerprint())
        store.update(ids[: count // 2], similarity=np.linspace(0, 1, count // 2))
    train(folder / "store", ids)
    return folder / "store", shards
