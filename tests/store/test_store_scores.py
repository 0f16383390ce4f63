"""Scores of one store are scores of one identity: encoder, target and method."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from weighted_stream.errors import StoreError, StoreMismatchError
from weighted_stream.scoring.identity import ScoreIdentity
from weighted_stream.sources.base import Fingerprint
from weighted_stream.store import WeightStore

MINE = ScoreIdentity("mini", "c0ffee", "mean", (0.6, 0.8))
OTHERS = [
    ScoreIdentity("maxi", "c0ffee", "mean", (0.6, 0.8)),
    ScoreIdentity("mini", "decaf", "mean", (0.6, 0.8)),
    ScoreIdentity("mini", "c0ffee", "max", (0.6, 0.8)),
    ScoreIdentity("mini", "c0ffee", "mean", (0.8, 0.6)),
]


@pytest.mark.parametrize("other", OTHERS)
def test_scores_of_two_identities_do_not_mix(tmp_path: Path, other: ScoreIdentity) -> None:
    with WeightStore(tmp_path) as store:
        store.bind_scores(MINE)
        store.update([1, 2], similarity=[0.5, 0.25])
    with WeightStore(tmp_path) as store:
        store.bind_scores(MINE)
        with pytest.raises(StoreMismatchError, match="This store holds other scores") as caught:
            store.bind_scores(other)
        assert "samples with a score: 2" in str(caught.value.found)
        assert other.encoder in str(caught.value.expected)
        store.bind_scores(MINE)
        assert store.get([1])["similarity"] == [0.5]


def test_rounding_on_another_device_is_the_same_identity() -> None:
    with WeightStore() as store:
        store.bind_scores(MINE)
        store.update([1], similarity=[0.5])
        store.bind_scores(ScoreIdentity("mini", "c0ffee", "mean", (0.6004, 0.7997)))


def test_a_store_without_scores_yet_takes_any(tmp_path: Path) -> None:
    with WeightStore(tmp_path) as store:
        store.update([1], loss=[2.0])
        for identity in [*OTHERS, MINE]:
            store.bind_scores(identity)
        store.update([1], similarity=[0.5])
        with pytest.raises(StoreMismatchError):
            store.bind_scores(OTHERS[0])


def test_scores_of_unknown_origin_are_not_mixed_with_others() -> None:
    with WeightStore() as store:
        store.update([1], similarity=[0.5])
        with pytest.raises(StoreMismatchError, match="unknown origin"):
            store.bind_scores(MINE)


def test_the_identity_and_the_dataset_stay_beside_each_other(tmp_path: Path) -> None:
    few, more = (Fingerprint("mds", "text", shards=shards) for shards in ({"0": 5}, {"1": 7, "0": 5}))
    with WeightStore(tmp_path, fingerprint=few) as store:
        store.bind_scores(MINE)
        store.update([1], similarity=[0.5])
    with WeightStore(tmp_path, fingerprint=more) as store, pytest.raises(StoreMismatchError, match="other scores"):
        store.bind_scores(OTHERS[1])
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["fingerprint"] == more.to_json()
    assert ScoreIdentity.from_json(manifest["scores"]) == MINE


def test_a_store_made_before_scores_had_an_identity_still_opens(tmp_path: Path) -> None:
    WeightStore(tmp_path).close()
    file = tmp_path / "manifest.json"
    manifest = json.loads(file.read_text())
    assert manifest.keys() == {"format", "version", "fingerprint", "store"}
    with WeightStore(tmp_path) as store:
        store.bind_scores(MINE)
    assert json.loads(file.read_text())["version"] == manifest["version"]


@pytest.mark.parametrize("damaged", [{"encoder": "mini"}, ["mini"], "mini"])
def test_a_damaged_identity_is_refused(tmp_path: Path, damaged: object) -> None:
    with WeightStore(tmp_path) as store:
        store.bind_scores(MINE)
        store.update([1], similarity=[0.5])
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "scores": damaged}))
    with WeightStore(tmp_path) as store, pytest.raises(StoreMismatchError):
        store.bind_scores(MINE)


def test_only_an_open_writer_binds(tmp_path: Path) -> None:
    writer = WeightStore(tmp_path)
    with WeightStore(tmp_path, mode="r") as reader, pytest.raises(StoreError, match="opened for reading"):
        reader.bind_scores(MINE)
    writer.close()
    with pytest.raises(StoreError, match="closed"):
        writer.bind_scores(MINE)


def test_scores_that_come_with_a_state_are_whose_the_state_says() -> None:
    with WeightStore() as unknown, WeightStore() as nothing, WeightStore() as store:
        unknown.update([1], similarity=[0.5])
        store.bind_scores(MINE)
        store.load_state_dict(nothing.state_dict())
        store.update([1], similarity=[0.5])
        store.check_scores(MINE)  # no scores came: those to come are still mine
        store.load_state_dict(unknown.state_dict())
        with pytest.raises(StoreMismatchError, match="nobody knows whose"):
            store.check_scores(MINE)
