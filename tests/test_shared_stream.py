"""Streams of several trainers and scorers that share a store: what training sees of it, and how it goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shared_servers import SharedServer

from weighted_stream import LinUpper, SharedStore, Similarity, StoreMismatchError, Uniform, WeightedStream, load_scores
from weighted_stream.scoring.identity import ScoreIdentity
from weighted_stream.shards.scored import Scored

SAMPLES = list(range(24))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedServer]:
    with SharedServer(tmp_path_factory.mktemp("server")) as server:
        yield server


def shared(server: SharedServer, name: str, path: Path | None = None, **options: Any) -> SharedStore:
    return SharedStore(server.url, path, **{"name": name, "every": 0.02, "flush_timeout": 40.0} | options)


def train(stream: WeightedStream, steps: int = 1000, **options: Any) -> list[Any]:
    """Ids, losses and weights of so many batches."""
    seen = []
    for samples, weight in stream.loader(batch_size=4, shuffle=True, seed=3, **options):
        losses = (samples.float() % 5 + 1.0) / (1 + stream.epoch)
        seen.append((weight.ids.tolist(), losses.tolist(), weight.resolve(losses).tolist()))
        if len(seen) == steps:
            break
    return seen


def test_two_trainers_of_one_dataset(server: SharedServer) -> None:
    one = WeightedStream(SAMPLES, LinUpper(), store=shared(server, "two"))
    two = WeightedStream(SAMPLES, Uniform(), store=shared(server, "two"))
    with one, two:
        train(one)
        train(one, 2)
        train(two, 3)
        one.store.flush()
        two.store.flush()
        for stream in one, two:
            assert isinstance(stream.store, SharedStore)
            stream.store.catch_up()
            assert stream.store.get(SAMPLES)["visits"].sum() == 24 + 8 + 12
        assert one.stats()["visits"] == 32.0
        assert one.stats()["shared_connected"] == 1.0
    with pytest.raises(StoreMismatchError, match="another dataset"):
        WeightedStream(SAMPLES[:5], Uniform(), store=shared(server, "two"))


def test_scores_come_while_it_trains(server: SharedServer) -> None:
    stream = WeightedStream(SAMPLES, Similarity(tau=0.5), store=shared(server, "scores"))
    with stream:
        neutral = train(stream, 1)
        assert neutral[0][2] == [1.0] * 4  # no score yet
        scores = np.linspace(-1, 1, 24, dtype=np.float32)
        scored = Scored(
            ScoreIdentity("mini", "c0ffee", "mean"), None, lambda: iter([(np.arange(24, dtype=np.int64), scores)])
        )
        with shared(server, "scores", follow=False) as scorer:
            assert load_scores(scorer, scored) == 24
        store = stream.store
        assert isinstance(store, SharedStore)
        store.catch_up()
        for ids, _, weights in train(stream):
            expected = torch.softmax(torch.from_numpy(scores[ids]) / 0.5, 0) * 4
            torch.testing.assert_close(torch.tensor(weights), expected)


def test_it_goes_on_from_a_state_and_so_does_the_server(server: SharedServer, tmp_path: Path) -> None:
    """As an uninterrupted run would have it: batches, weights, local store, and what others see."""
    with WeightedStream(SAMPLES, LinUpper(), store=shared(server, "whole", tmp_path / "whole")) as stream:
        expected = train(stream) + train(stream)
        wanted = stream.store.get(SAMPLES)
    begun = WeightedStream(SAMPLES, LinUpper(), store=shared(server, "resumed", tmp_path / "resumed"))
    with begun:
        seen = train(begun, 4)
        state = begun.state_dict()
        for samples, weight in begun.loader(batch_size=4, shuffle=True, seed=3):  # what is lost
            weight.resolve(samples.float() + 100.0)
    with shared(server, "resumed") as other:
        other.catch_up()
        assert other.get(SAMPLES)["last_loss"].max() > 100.0
        again = WeightedStream(SAMPLES, LinUpper(), store=shared(server, "resumed", tmp_path / "resumed"))
        with again:
            again.load_state_dict(state)
            seen += train(again) + train(again)
            again.store.flush()
            other.catch_up()
            for name, values in again.store.get(SAMPLES).items():
                np.testing.assert_array_equal(values, wanted[name])
                np.testing.assert_array_equal(other.get(SAMPLES)[name], wanted[name])
    assert seen == expected


def test_with_workers(server: SharedServer) -> None:
    with WeightedStream(SAMPLES, Uniform(), store=shared(server, "workers")) as stream:
        train(stream, num_workers=2)
        stream.store.flush()
        with shared(server, "workers") as other:
            other.catch_up()
            assert other.get(SAMPLES)["visits"].tolist() == [1] * 24


@pytest.mark.filterwarnings("ignore:The shared store at:RuntimeWarning")
def test_training_goes_on_without_the_server(tmp_path: Path) -> None:
    with (
        SharedServer(tmp_path) as server,
        WeightedStream(SAMPLES, LinUpper(), store=shared(server, "gone")) as stream,
        WeightedStream(SAMPLES, LinUpper()) as alone,
    ):
        seen = train(stream, 2)
        server.kill()
        seen += train(stream, 4)
        assert seen == train(alone, 2) + train(alone, 4)
        server.start()
