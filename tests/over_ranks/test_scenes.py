"""Ranks end early, come in parts, retry, leave, are lost, differ: each defined, in real processes."""

from __future__ import annotations

from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scenes
import torch
from global_batches import Batches, data
from ranks import run_ranks

from weighted_stream import InfoBatch, LinUpper, Similarity, WeightedStream
from weighted_stream.scoring.bm25 import BM25Scorer


def of_ranks(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def assert_same(one: Any, other: Any) -> None:
    for name, values in one.items():
        torch.testing.assert_close(other[name], values, rtol=0, atol=0, equal_nan=True)


def global_batches(each: list[list[list[int]]]) -> list[list[int]]:
    return [list(chain.from_iterable(row)) for row in zip_longest(*each, fillvalue=())]


def weights_together(stream: WeightedStream, batches: list[list[int]], epochs: int) -> list[torch.Tensor]:
    weights = []
    for epoch in range(epochs):
        for batch, weight in stream.loader(batch_sampler=Batches(batches)):
            weights.append(weight.resolve(batch.float() / (epoch + 1)))
    return weights


def test_a_rank_that_ends_early_under_join(tmp_path: Path) -> None:
    run_ranks(scenes.train_with_join, 2, tmp_path, str(tmp_path))
    one, other = of_ranks(tmp_path)
    assert_same(one["records"], other["records"])
    assert one["step"] == other["step"] == 12
    torch.testing.assert_close(one["learned"]["latest"], other["learned"]["latest"], rtol=0, atol=0)
    visits = one["records"]["visits"]
    assert visits.sum() == 2 * (12 + 6)


@pytest.mark.parametrize("window", ["running", "batch"])
def test_parts_and_retries_count_once(window: Any, tmp_path: Path) -> None:
    run_ranks(scenes.weigh_in_parts, 2, tmp_path, str(tmp_path), window)
    stream = WeightedStream(scenes.numbers(), LinUpper(window=window, memory=64))
    each = [[list(range(20 * r + 5 * n, 20 * r + 5 * n + 5)) for n in range(4)] for r in range(2)]
    whole = weights_together(stream, global_batches(each), 2)
    for rank, found in enumerate(of_ranks(tmp_path)):
        for weights, mine in zip(whole, found["weights"], strict=True):
            torch.testing.assert_close(mine, weights[5 * rank : 5 * rank + 5], rtol=1e-6, atol=1e-6)
        expected = scenes.records_of(stream)
        for name, values in expected.items():
            torch.testing.assert_close(found["records"][name], values, rtol=1e-6, atol=1e-6, equal_nan=True)
        torch.testing.assert_close(found["learned"], stream.strategy.state_dict(), rtol=0, atol=0)


def test_a_rank_that_leaves_its_loop_waits_for_the_others(tmp_path: Path) -> None:
    run_ranks(scenes.leave_early, 2, tmp_path, str(tmp_path))
    one, other = of_ranks(tmp_path)
    assert_same(one["records"], other["records"])
    assert one["step"] == other["step"] == 8
    assert one["records"]["visits"].tolist() == [2] * 30 + [1] * 10


@pytest.mark.timeout(60)
def test_a_lost_rank_is_named(tmp_path: Path) -> None:
    run_ranks(scenes.lose_one, 2, tmp_path, str(tmp_path))
    found = torch.load(tmp_path / "0.pt", weights_only=True)
    for error in found["errors"]:
        assert "did not get through" in error
        assert "first error of another rank" in error
    assert found["visits"].tolist() == ([1] * 10 + [0] * 10) * 2


def test_faults_of_one_rank_reach_all(tmp_path: Path) -> None:
    run_ranks(scenes.differ, 2, tmp_path, str(tmp_path))
    one, other = (found["said"] for found in of_ranks(tmp_path))
    assert one[0].startswith("StoreError")
    assert other[0].startswith("RanksError: Rank 0 cannot open its store")
    assert "notes.txt" in other[0]
    for said in (one[1], other[1]):
        assert "rank 0 loads a state in epoch 0; rank 1 begins epoch 0" in said
    assert one[2] == "2.0"


def test_strategies_that_look_at_the_model_or_choose(tmp_path: Path) -> None:
    run_ranks(scenes.look_at_the_model, 2, tmp_path, str(tmp_path))
    one, other = of_ranks(tmp_path)
    for n, (mine, theirs) in enumerate(zip(one["weights"], other["weights"], strict=True)):
        both = torch.cat([mine, theirs])
        assert len(both) == 9
        if n in (5, 6):  # one of them has no finite loss
            both = both[both > 0]
            assert len(both) == 10 - n
        torch.testing.assert_close(both.mean(), torch.tensor(1.0))
        assert n in (5, 6) or not torch.isclose(mine.mean(), torch.tensor(1.0), atol=1e-4), "normalised over one rank"
    assert_same(one["records"], other["records"])
    assert_same(one["lacking"], other["lacking"])
    assert one["lacking"]["visits"].sum() == 4 * 9 - 4 - 5
    stream = WeightedStream(data(), InfoBatch(epochs=4, prune=True))
    each = [[list(range(60 * r + 10 * n, 60 * r + 10 * n + 10)) for n in range(6)] for r in range(2)]
    for _ in range(2):
        for batch, weight in stream.loader(batch_size=20, sampler=list(chain.from_iterable(global_batches(each)))):
            weight.resolve(batch["loss"].float().nan_to_num(1.0, posinf=1.0))
    records = stream.store.get(np.arange(120))
    for name in ("visits", "last_loss", "loss", "last_step"):  # weights are scaled within what a rank chose
        np.testing.assert_allclose(one["records"][name].numpy(), records[name], rtol=1e-6, err_msg=name)
    np.testing.assert_array_equal(one["records"]["weight"].numpy() > 0, records["weight"] > 0)


def test_groups_keep_their_names(tmp_path: Path) -> None:
    run_ranks(scenes.name_groups, 2, tmp_path, str(tmp_path))
    one, other = of_ranks(tmp_path)
    for records in (one["again"], other["records"], other["again"]):
        assert_same(one["records"], records)


def test_scores_made_ahead_reach_all_ranks(tmp_path: Path) -> None:
    run_ranks(scenes.score_ahead, 2, tmp_path, str(tmp_path))
    one, other = of_ranks(tmp_path)
    assert_same(one["records"], other["records"])
    assert not one["records"]["similarity"].isnan().any()
    scores = one["records"]["similarity"]
    alone = WeightedStream([{"n": n} for n in range(scenes.SAMPLES)], Similarity())
    alone.store.update(np.arange(scenes.SAMPLES), similarity=scores)
    each = [[list(range(20 * r + 5 * n, 20 * r + 5 * n + 5)) for n in range(4)] for r in range(2)]
    for n, (batch, weight) in enumerate(alone.loader(batch_sampler=Batches(global_batches(each)))):
        expected = weight.resolve(torch.ones(len(batch["n"])))
        torch.testing.assert_close(torch.cat([one["weights"][n], other["weights"][n]]), expected, rtol=1e-6, atol=1e-6)


def test_words_are_counted_in_the_whole_corpus(tmp_path: Path) -> None:
    texts = [f"{'a proof of the number' if n < 20 else 'a soup of the recipe'} {n}" for n in range(scenes.SAMPLES)]
    (tmp_path / "shards").mkdir()
    for name, start in (("a", 0), ("b", 20)):
        some = {"id": list(range(start, start + 20)), "text": texts[start : start + 20]}
        pq.write_table(pa.table(some), tmp_path / "shards" / f"{name}.parquet")
    run_ranks(scenes.score_by_words, 2, tmp_path, str(tmp_path))
    one, other = of_ranks(tmp_path)
    assert_same(one["records"], other["records"])
    scorer = BM25Scorer(["a proof of a theorem about a number"])
    samples = [{"text": text} for text in texts]
    scorer.learn(lambda: [samples])
    np.testing.assert_allclose(one["records"]["similarity"], scorer.score(samples), rtol=1e-5)


def test_ranks_that_go_back_keep_nothing_of_what_came_after(tmp_path: Path) -> None:
    run_ranks(scenes.go_back, 2, tmp_path, str(tmp_path))
    one, other = of_ranks(tmp_path)
    for each in (one, other):
        assert_same(each["then"], each["now"])
    assert_same(one["now"], other["now"])


def test_samples_that_nobody_shares_out_are_said(tmp_path: Path) -> None:
    run_ranks(scenes.weigh_the_same, 2, tmp_path, str(tmp_path))


def test_ranks_wait_as_long_as_the_trainer_lets_them(tmp_path: Path) -> None:
    run_ranks(scenes.wait_as_long, 2, tmp_path, str(tmp_path))
