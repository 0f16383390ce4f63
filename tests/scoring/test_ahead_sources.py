"""Whatever the source, the workers and the order: the score in the store is what the encoder says of that sample."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ahead_texts import text_of
from shards import write_mds, write_tars

from weighted_stream import HashedEncoder, ParquetDataset, Similarity, TargetSet, WeightedStream
from weighted_stream.scoring.similarity_scorer import SimilarityScorer
from weighted_stream.strategies.similarity import similarity_weights

pytestmark = [
    # Python 3.12 warns of every fork beside a thread; here loader workers are forked beside the scorer's.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:streaming"),
    pytest.mark.filterwarnings("ignore:.*num_workers.*:UserWarning:webdataset"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes:UserWarning"),
    # webdataset leaves closing its files to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SIZE = 90
TARGET = ["apple river stone", "cloud and stone", "winter at the harbour"]


def mds(folder: Path) -> Any:
    streaming = pytest.importorskip("streaming")
    streaming.base.util.clean_stale_shared_memory()
    write_mds(folder, range(SIZE))
    return streaming.StreamingDataset(local=str(folder), batch_size=8, shuffle=True)


def webdataset(folder: Path) -> Any:
    wds = pytest.importorskip("webdataset")
    urls = write_tars(folder, range(SIZE))
    return wds.WebDataset(urls, shardshuffle=False).shuffle(20).decode().map(lambda s: {"marker": s["cls"]})


def parquet(folder: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for part in range(3):
        rows = list(range(part * 30, part * 30 + 30))
        pq.write_table(pa.table({"marker": rows}), folder / f"{part}.parquet", row_group_size=10)
    return ParquetDataset(folder)


def map_style(folder: Path) -> Any:
    return [{"marker": marker} for marker in range(SIZE)]


def hugging_face(folder: Path) -> Any:
    datasets = pytest.importorskip("datasets")
    return datasets.Dataset.from_dict({"marker": list(range(SIZE))}).shuffle(seed=3)


SOURCES: dict[str, tuple[Callable[[Path], Any], dict[str, Any], int]] = {
    "mds": (mds, {}, 2),
    "webdataset": (webdataset, {}, 2),
    "parquet": (parquet, {"shuffle": True}, 4),
    "map-style": (map_style, {"shuffle": True}, 2),
    "hugging face": (hugging_face, {"shuffle": True}, 2),
}


@pytest.mark.parametrize("name", SOURCES)
def test_stored_scores_are_those_of_the_encoder(name: str, tmp_path: Path) -> None:
    make, arguments, workers = SOURCES[name]
    scorer = SimilarityScorer(TargetSet(TARGET), HashedEncoder(dim=256), text=text_of)
    expected = scorer.score([{"marker": marker} for marker in range(SIZE)])
    assert len(np.unique(expected.round(4))) > SIZE / 2
    strategy = Similarity(TargetSet(TARGET), HashedEncoder(dim=256), tau=0.5, text=text_of, ahead=16, wait=True)
    known: dict[int, int] = {}
    with WeightedStream(make(tmp_path), strategy, store=tmp_path.with_name(f"{tmp_path.name}-store")) as stream:
        # An epoch that is left early, with workers; then a whole one, in another order, without.
        for number, most in ((workers, 3), (0, SIZE)):
            for count, (batch, weight) in enumerate(stream.loader(batch_size=8, num_workers=number, **arguments), 1):
                markers = batch["marker"].tolist()
                weights = similarity_weights(torch.from_numpy(expected[markers]), 0.5)
                torch.testing.assert_close(weight.resolve(torch.zeros(len(markers))), weights, rtol=0, atol=1e-3)
                known |= dict(zip(markers, weight.ids.tolist(), strict=True))
                if count == most:
                    break
        assert sorted(known) == list(range(SIZE))
        stored = stream.store.get([known[marker] for marker in range(SIZE)])["similarity"]
        np.testing.assert_allclose(stored, expected, rtol=0, atol=1e-6)
        stats = stream.stats()
        assert stats["scored_ahead"] == stats["scored"] == SIZE
        assert stats["unscored"] == stats["scorer_bad_parts"] == stats["unscored_batches"] == 0
