"""Every file that the library writes or reads by itself, damaged: an error of ours, or a right answer; never worse.

In `make soak`: 100,000 damaged files. What is right:

- journal (entries, index) and manifest, which have checksums or are looked through: the store is what it was after one
  of its calls, bit for bit;
- header, records and table of hashed ids, which have none: any values; and `WeightStore.rebuild` makes the very store
  that was written from the journal, or the journal says that it is damaged;
- scores beside shards, weighting networks: the very scores and numbers that were written;
- targets, priors, Parquet shards: samples, whatever they say: those files are the user's, without checksums of ours;
- states: that a stream goes on.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from damage import EXTREMES, JSON_VALUES, Case, judge
from soaking import SEED, progress, times
from test_journal_state import contents, step

from weighted_stream import (
    DataWeightingModel,
    LinUpper,
    ParquetDataset,
    TargetSet,
    WeightedStream,
    WeightStore,
)
from weighted_stream.errors import WeightedStreamError
from weighted_stream.scoring.identity import ScoreIdentity
from weighted_stream.shards.convert import receipt
from weighted_stream.shards.priors import prior_scores
from weighted_stream.shards.side_files import read_scores, write_side_file
from weighted_stream.sources.base import Fingerprint
from weighted_stream.store.state import STATE_VERSION

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.timeout(0),
]

STEPS = 14
RAW = ("header.bin", "records.bin", "hashed-1.bin")


@pytest.fixture(autouse=True)
def no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def check(
    what: str,
    pristine: Path,
    names: list[str],
    use: Callable[[Path, Case], str | None],
    home: Path,
    short: int,
    long: int,
    **more: Any,
) -> None:
    home.mkdir()
    first = SEED * 1_000_003
    refused = right = 0
    for begin in range(0, times(short, long), 500):
        seeds = range(first + begin, first + min(begin + 500, times(short, long)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            verdict = judge(pristine, names, use, home=home, seeds=seeds, **more)
        assert not verdict.wrong, told(verdict.wrong)
        refused, right = refused + verdict.refused, right + verdict.right
        assert verdict.refused + verdict.right == len(seeds)
    progress(f"{what}: {refused:,} refused, {right:,} right")
    assert refused
    assert right


def told(wrong: list[str]) -> str:
    """The first of each kind of fault, and how many there are."""
    kinds: dict[str, list[str]] = {}
    for text in wrong:
        kinds.setdefault(" ".join(text.strip().splitlines()[-1].split()[:4]), []).append(text)
    return "\n".join(f"{len(some)} like this:\n{some[0]}" for some in kinds.values())


# The store


def past_of(folder: Path) -> list[dict[str, Any]]:
    seen = []
    with WeightStore() as store:
        seen.append(contents(store))
        for number in range(STEPS):
            step(store, number)
            seen.append(contents(store))
    return seen


def store_files(tmp_path: Path, *, compacted: bool) -> tuple[Path, dict[str, Any]]:
    pristine = tmp_path / "pristine"
    with WeightStore(pristine / "store", fingerprint=Fingerprint("list", "", 40)) as store:
        store.bind_scores(ScoreIdentity("mini", "c0ffee", "mean"))
        for number in range(STEPS):
            step(store, number)
            if number == 5:
                middle = store.state_dict()
            store.flush()
        store.set_groups([1, 2], ["code", "text"])
        if compacted:
            store.compact(middle)
        whole = contents(store)
    return pristine, whole


@pytest.mark.parametrize("compacted", [False, True])
def test_journal_and_manifest(compacted: bool, tmp_path: Path) -> None:
    pristine, whole = store_files(tmp_path, compacted=compacted)
    past = [*past_of(tmp_path), whole]
    folder = pristine / "store"
    names = [f"store/journal/{path.name}" for path in (folder / "journal").glob("*.*")] + ["store/manifest.json"]

    def use(folder: Path, case: Case) -> str | None:
        with WeightStore(folder / "store") as store:
            if contents(store) not in past:
                return "a store that never was"
            store.groups, store.check_scores(ScoreIdentity("mini", "c0ffee", "mean"))
            state = store.state_dict()
            store.update([1, 2], loss=[1.0, 2.0], step=99)
            store.load_state_dict(state)
            if contents(store) not in past:
                return "after going back, a store that never was"
            list(store.history())
        with WeightStore(folder / "store", mode="r", fingerprint=Fingerprint("list", "", 40)) as store:
            if contents(store) not in past:
                return "another store for a reader"
        WeightStore.at_step(folder / "store", 9).close()
        return None

    check("journal and manifest", pristine, names, use, tmp_path / "cases", 60, 17_000)


def test_what_is_behind_the_journal(tmp_path: Path) -> None:
    """The base has no checksums: it says where it ends, or its records are what they are."""
    pristine, whole = store_files(tmp_path, compacted=True)
    base = pristine / "store" / "journal" / "base"
    names = [f"store/journal/base/{path.name}" for path in base.iterdir()]

    def use(folder: Path, case: Case) -> str | None:
        with WeightStore(folder / "store") as store:
            if contents(store) != whole:
                return "records that were not damaged have changed"
            store.update([1, 2], loss=[1.0, 2.0], step=99)
            store.flush()
            WeightStore.at_step(folder / "store", 99).close()
            store.compact()
            list(store.history())
        WeightStore.rebuild(folder / "store")
        with WeightStore(folder / "store") as store:
            contents(store)
        return None

    check("base", pristine, names, use, tmp_path / "cases", 40, 8_000)


@pytest.mark.parametrize("mode", ["a", "r"])
def test_header_and_records(mode: Any, tmp_path: Path) -> None:
    pristine, _ = store_files(tmp_path, compacted=False)
    names = [f"store/{name}" for name in RAW]

    def use(folder: Path, case: Case) -> str | None:
        try:
            with WeightStore(folder / "store", mode=mode) as store:
                contents(store)
                store.stats()
                sum(ids.size for ids, _ in store.chunks(100))
                if mode == "a":
                    store.update([1, 1 << 62], loss=[1.0, 2.0], step=99)
                    store.state_dict()
                    store.record([3], [1.0], [1.0], step=100)
        except WeightedStreamError:
            if mode == "r" or case.seed % 2:
                raise
        if mode == "a":
            WeightStore.rebuild(folder / "store")
            with WeightStore(folder / "store") as store:
                seen = {name: values.tolist() for name, values in store.get(range(4, 40)).items()}
                if seen["visits"] != expected["visits"] or str(seen["loss"]) != str(expected["loss"]):
                    return "a rebuilt store that is another"
        return None

    with WeightStore(pristine / "store", mode="r") as store:
        expected = {name: values.tolist() for name, values in store.get(range(4, 40)).items()}
    check(f"header and records, mode {mode}", pristine, names, use, tmp_path / "cases", 50, 12_000)


def test_states_of_a_store(tmp_path: Path) -> None:
    """As JSON: of a store with a journal, and of one without."""
    pristine, _ = store_files(tmp_path, compacted=False)
    with WeightStore(pristine / "store") as store:
        (pristine / "journal.json").write_text(json.dumps(store.state_dict()))
    with WeightStore() as store:
        for number in range(STEPS):
            step(store, number)
        state = {
            name: value.tolist() if hasattr(value, "tolist") else value for name, value in store.state_dict().items()
        }
        (pristine / "records.json").write_text(json.dumps(state))

    def use(folder: Path, case: Case) -> str | None:
        try:
            state = json.loads((folder / case.name).read_bytes())
        except (ValueError, RecursionError):
            return None
        with WeightStore(folder / "store") if case.name == "journal.json" else WeightStore() as store:
            before = contents(store)
            try:
                store.load_state_dict(state)
            except WeightedStreamError:
                return None if contents(store) == before else "a state that was refused has changed the store"
            contents(store)
            store.record([3], [1.0], [1.0], step=100)
            store.state_dict()
        return None

    home = tmp_path / "cases"
    check_all_right("states of a store", pristine, ["journal.json", "records.json"], use, home, 40, 6_000)
    assert STATE_VERSION == 1


def check_all_right(*arguments: Any) -> None:
    """As `check`, for cases that look at refusals themselves."""
    what, pristine, names, use, home, short, long = arguments
    home.mkdir()
    first = SEED * 1_000_003
    for begin in range(0, times(short, long), 500):
        seeds = range(first + begin, first + min(begin + 500, times(short, long)))
        verdict = judge(pristine, names, use, home=home, seeds=seeds)
        assert not verdict.wrong, told(verdict.wrong)
    progress(f"{what}: {times(short, long):,}, none wrong")


# States of streams


def rotten(file: Path, chance: random.Random, others: list[Path]) -> str:
    """Another value somewhere in a state, or one less."""
    state = torch.load(file, weights_only=True)
    node: Any = state
    trail = []
    while True:
        key = chance.choice(list(node) if isinstance(node, dict) else range(len(node)))
        trail.append(key)
        if not isinstance(node[key], (dict, list)) or not node[key] or chance.random() < 0.15:
            break
        node = node[key]
    if isinstance(node, dict) and chance.random() < 0.2:
        del node[key]
    else:
        tensors = [torch.zeros(0), torch.full((3,), float("nan")), torch.zeros(2, 2, dtype=torch.int64)]
        node[key] = chance.choice([*JSON_VALUES, *EXTREMES, *tensors])
    torch.save(state, file)
    return f"state{trail}"


@pytest.mark.filterwarnings("ignore")
def test_states_of_a_stream(tmp_path: Path) -> None:
    pristine = tmp_path / "pristine"
    pristine.mkdir()

    def stream(strategy: LinUpper | None = None) -> WeightedStream:
        return WeightedStream(list(range(40)), strategy or LinUpper(window="running"))

    with stream() as first:
        for number, (batch, weight) in enumerate(first.loader(batch_size=8, shuffle=True)):
            weight.resolve(batch / 7.0)
            if number == 2:
                break
        torch.save(first.state_dict(), pristine / "state.pt")

    def use(folder: Path, case: Case) -> str | None:
        state = torch.load(folder / "state.pt", weights_only=True)
        with warnings.catch_warnings(), stream() as again:
            warnings.simplefilter("ignore")
            again.load_state_dict(state)
            seen = 0
            for batch, weight in again.loader(batch_size=8, shuffle=True):
                weights = weight.resolve(batch / 7.0)
                if not torch.isfinite(weights).all():
                    return f"weights {weights}"
                seen += len(batch)
                if seen > 200:
                    return "an epoch without an end"
            again.state_dict()
        return None

    check("states of a stream", pristine, ["state.pt"], use, tmp_path / "cases", 40, 6_000, change=rotten)


# Scores, networks


def test_scores_beside_shards(tmp_path: Path) -> None:
    pristine = tmp_path / "pristine"
    ids, scores = np.arange(300) * 7, np.random.default_rng(0).random(300, np.float32)
    for name in ("a", "b"):
        write_side_file(
            pristine,
            name,
            ids + (name == "b"),
            scores,
            identity=ScoreIdentity("mini", "c0ffee", "mean", (0.5, 0.25)),
            dataset=Fingerprint("webdataset", "", None, {name: 300}),
            size=300,
        )

    def use(folder: Path, case: Case) -> str | None:
        found = list(read_scores(folder))
        same = len(found) == 2 and all(
            np.array_equal(got, ids + place) and np.array_equal(values, scores)
            for place, (got, values) in enumerate(found)
        )
        return None if same else f"other scores, of {len(found)} shards"

    check("scores beside shards", pristine, ["a.parquet", "b.parquet"], use, tmp_path / "cases", 60, 14_000)


def network() -> DataWeightingModel:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Linear(8, 2))
    target = [(torch.randn(6, 3), torch.randint(2, (6,)))]
    return DataWeightingModel(model, target, eta=0.1, anchors=6, head="1")


def test_weighting_networks(tmp_path: Path) -> None:
    pristine = tmp_path / "pristine"
    pristine.mkdir()
    kept = network()
    kept.save(pristine / "network.npz")
    expected = {name: value.clone() for name, value in kept._network.state_dict().items()}

    def use(folder: Path, case: Case) -> str | None:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Linear(8, 2))
        target = [(torch.randn(6, 3), torch.randint(2, (6,)))]
        found = DataWeightingModel.load(folder / "network.npz", model, target, head="1")._network.state_dict()
        same = found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
        return None if same else "another network"

    check("weighting networks", pristine, ["network.npz"], use, tmp_path / "cases", 40, 8_000)


# Files of the user


LINES = [{"text": f"sample number {number}", "id": number, "quality": {"score": number / 7}} for number in range(60)]


def user_files(folder: Path) -> list[str]:
    folder.mkdir()
    text = "".join(json.dumps(line) + "\n" for line in LINES)
    (folder / "lines.jsonl").write_text(text)
    (folder / "packed.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    pq.write_table(pa.Table.from_pylist(LINES), folder / "table.parquet", row_group_size=20)
    return ["lines.jsonl", "packed.jsonl.gz", "table.parquet"]


def test_targets(tmp_path: Path) -> None:
    names = user_files(tmp_path / "pristine")

    def use(folder: Path, case: Case) -> str | None:
        return None if len(TargetSet(folder / case.name)) else "no samples"

    check("targets", tmp_path / "pristine", names, use, tmp_path / "cases", 60, 9_000)


def test_priors(tmp_path: Path) -> None:
    names = user_files(tmp_path / "pristine")

    def use(folder: Path, case: Case) -> str | None:
        for ids, scores in prior_scores(folder / case.name, "quality.score", id="id"):
            if not (ids >= 0).all() or not np.isfinite(scores).all():
                return f"{ids} {scores}"
        return None

    check("priors", tmp_path / "pristine", names, use, tmp_path / "cases", 60, 8_000)


def test_parquet_shards(tmp_path: Path) -> None:
    """A damaged page without a sum over it may read as nulls, which `default_collate` refuses, as those of the user."""

    def rows(batch: list[Any]) -> list[Any]:
        assert all(type(row) is dict and row for row in batch), batch
        return batch

    user_files(tmp_path / "pristine")

    def use(folder: Path, case: Case) -> str | None:
        dataset = ParquetDataset(folder / "table.parquet", shuffle=True, buffer_size=10)
        with WeightedStream(dataset, LinUpper()) as stream:
            for _, weight in stream.loader(batch_size=8, collate_fn=rows):
                weight.resolve(torch.ones(len(weight)))
        return None

    check("Parquet shards", tmp_path / "pristine", ["table.parquet"], use, tmp_path / "cases", 40, 6_000)


def test_receipts_of_conversions(tmp_path: Path) -> None:
    """What cannot be read is as good as none."""
    (tmp_path / "pristine").mkdir()
    about = {
        "source": "x",
        "format": "mds",
        "samples": 3,
        "shards": 1,
        "id": "id",
        "made": True,
        "columns": {"id": "int64"},
    }
    file = tmp_path / "pristine" / "_converted.json"
    file.write_text(json.dumps(about))

    def use(folder: Path, case: Case) -> str | None:
        receipt(folder)
        return None

    check_all_right("receipts", tmp_path / "pristine", [file.name], use, tmp_path / "cases", 20, 500)
