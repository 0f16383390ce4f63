"""What a report finds in stores of every kind: with journal and without, empty, damaged, shortened, and two of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from report_runs import a_run, texts, train, write_shards

from weighted_stream import (
    LinUpper,
    Resampled,
    Similarity,
    SourceError,
    StoreError,
    StoreMismatchError,
    Uniform,
    WeightedStream,
    WeightStore,
)
from weighted_stream.report.build import Options, build
from weighted_stream.report.page import page
from weighted_stream.report.texts import Texts


def answers(run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["question"]: one for one in run["answers"]}


def listed(value: dict[str, Any], key: str) -> list[int]:
    """Ids in a list."""
    rows = next(some["rows"] for some in value["samples"]["lists"] if some["key"] == key)
    return [int(value["samples"]["columns"]["id"][row]) for row in rows]


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    store, shards = a_run(tmp_path_factory.mktemp("run"))
    return store, shards, build(store, options=Options(data=shards, samples=50))


def test_answers(ready: tuple[Path, Path, dict[str, Any]]) -> None:
    run = ready[2]["runs"][0]
    said = answers(run)
    assert said["Did the weights vary enough to matter?"]["answer"] == "Yes"
    assert "(×" in said["Which kind of text got weight?"]["answer"]
    assert said["Was anything skipped?"]["answer"] == "No: every sample was trained on"
    assert said["Was anything unscored?"]["answer"].startswith("150 samples (50.0%)")
    assert said["Was anything broken?"]["answer"] == "1 losses that were not finite"
    assert said["Are there repeats?"]["answer"] == "25% of the texts repeat another"
    assert "Most, with a mean weight of" in said["Which samples counted most and least?"]["detail"]
    assert "“text " in said["Which samples counted most and least?"]["detail"]
    assert run["facts"] == {"samples": 300, "trained on": 300, "visits": 899, "steps": 45}


def test_lists_against_the_journal(ready: tuple[Path, Path, dict[str, Any]]) -> None:
    store, _, value = ready
    with WeightStore(store, mode="r") as opened:
        rows = [row for batch in opened.history() for row in batch.to_pylist() if row["step"] is not None]
    weights: dict[int, list[float]] = {}
    for row in rows:
        weights.setdefault(row["id"], []).append(row["weight"])
    means = {key: float(np.mean(some)) for key, some in weights.items()}
    ordered = sorted(means.values())
    up, down = listed(value, "up"), listed(value, "down")
    assert [means[key] for key in up] == pytest.approx(ordered[::-1][:100])
    assert [means[key] for key in down] == pytest.approx(ordered[:100])
    number = {int(key): at for at, key in enumerate(sorted(means))}  # ids ascend with the rows of their shard
    columns = value["samples"]["columns"]
    place = {int(key): at for at, key in enumerate(columns["id"])}
    kept = {int(columns["text"][place[key]].split()[1]): key for key in up if columns["times"][place[key]] == 1}
    assert all(row % 17 == 5 or row % 19 == 7 for row in list(kept)[:10])
    never = listed(value, "never")
    assert len(never) == len([row for row in range(300) if row % 17 == 5])
    assert len(listed(value, "mislabelled")) >= len([row for row in range(300) if row % 19 == 7 and row % 17 != 5])
    assert len(listed(value, "broken")) == 1
    assert set(listed(value, "repeated")) <= set(number)
    assert len(listed(value, "repeated")) == 100


def test_charts(ready: tuple[Path, Path, dict[str, Any]]) -> None:
    run = ready[2]["runs"][0]
    assert len(run["steps"]["begins"]) == 900 // 200
    assert all(len(line) == 4 for line in (*run["steps"]["weights"], *run["steps"]["losses"], run["steps"]["ess"]))
    groups = run["groups"]
    assert sorted(groups["names"]) == ["<b>table</b>", "code", "prose"]
    assert sum(groups["weight"]) == pytest.approx(1, abs=1e-4)
    assert sum(groups["visits"]) == pytest.approx(1, abs=1e-4)
    for at in range(4):
        assert sum(line["share"][at] for line in groups["lines"]) == pytest.approx(1, abs=1e-4)
    assert run["shards"]["of"] == 6
    assert run["shards"]["samples"] == [50] * 6
    assert len(run["scatter"]["id"]) == 300
    assert sum(value is not None for value in run["scatter"]["similarity"]) == 150


def test_the_samples_shown(ready: tuple[Path, Path, dict[str, Any]]) -> None:
    store, _, value = ready
    columns = value["samples"]["columns"]
    assert len(columns["id"]) >= 50
    assert all(len(column) == len(columns["id"]) for column in columns.values())
    with WeightStore(store, mode="r") as opened:
        fields = opened.get([int(key) for key in columns["id"]])
    assert columns["visits"] == fields["visits"].tolist()
    assert columns["loss"] == pytest.approx(fields["last_loss"].tolist(), rel=1e-4)
    assert all(text.startswith("text ") for text in columns["text"])
    assert {columns["shard"][0]} <= {f"{number:05d}.parquet" for number in range(6)}


def test_two_runs(tmp_path: Path) -> None:
    ids = np.arange(100)
    train(tmp_path / "one", ids, seed=0)
    train(tmp_path / "other", ids[20:], seed=1)
    value = build(tmp_path / "one", tmp_path / "other")
    assert [run["name"] for run in value["runs"]] == ["one", "other"]
    assert "80 samples in common" in value["comparison"]["answers"][0]["detail"]
    assert len(value["comparison"]["points"]["weight"]["x"]) == 80
    columns = value["samples"]["columns"]
    for key, weight in zip(columns["id"], columns["weight2"], strict=True):
        assert (weight is None) == (int(key) < 20)
    gaps = [abs(columns["weight"][row] - columns["weight2"][row]) for row in value["samples"]["lists"][-2]["rows"]]
    assert gaps == sorted(gaps, reverse=True)
    assert len(gaps) == 50


def test_runs_over_different_data(tmp_path: Path) -> None:
    train(tmp_path / "one", np.arange(50))
    train(tmp_path / "other", np.arange(500, 550))
    value = build(tmp_path / "one", tmp_path / "other")
    assert value["comparison"]["answers"][0]["answer"] == "No sample in common"


def test_without_a_journal(tmp_path: Path) -> None:
    train(tmp_path / "store", np.arange(60), journal=False, names=False)
    value = build(tmp_path / "store")
    run = value["runs"][0]
    assert (run["steps"], run["groups"], run["shards"]) == (None, None, None)
    assert any("no journal" in note for note in value["notes"])
    assert len(listed(value, "up")) == 60
    assert "latest" in answers(run)["Did the weights vary enough to matter?"]["detail"]
    page(value)


def test_an_empty_store(tmp_path: Path) -> None:
    WeightStore(tmp_path / "store").close()
    value = build(tmp_path / "store")
    assert [one["answer"] for one in value["runs"][0]["answers"]] == ["Nothing yet"]
    assert value["samples"]["columns"]["id"] == []
    page(value)


def test_uniform_training_is_called_that(tmp_path: Path) -> None:
    with WeightStore(tmp_path / "store") as store:
        for step in range(20):
            store.record(np.arange(20), np.full(20, 20.0 - step), np.ones(20), step=step)
    said = answers(build(tmp_path / "store")["runs"][0])
    assert said["Did the weights vary enough to matter?"]["answer"] == "No: this was uniform training"
    assert said["Did the weights vary enough to matter?"]["level"] == "look"


def test_a_strategy_that_chooses_is_measured_against_its_candidates(tmp_path: Path) -> None:
    data = [{"kind": "rare" if i % 8 == 0 else "common", "loss": 1.0 + i % 7} for i in range(800)]
    strategy = Resampled(Similarity(ess=0.5), budget=0.25)
    with WeightedStream(data, strategy, store=tmp_path / "store", group_fn="kind") as stream:
        stream.store.update(range(800), similarity=[1.0 if i % 8 == 0 else 0.5 for i in range(800)])
        for batch, weight in stream.loader(batch_size=8):
            weight.resolve(batch["loss"].float())
    said = answers(build(tmp_path / "store")["runs"][0])
    varied = said["Did the weights vary enough to matter?"]
    assert varied["answer"] == "No: samples were chosen, not weighed"
    assert varied["detail"].startswith("25.0% of the candidates were chosen. Effective sample size 100.0%")
    group = said["Which kind of text got weight?"]
    assert group["answer"].startswith("rare most")
    assert "for 12.5% of the candidates" in group["detail"]
    assert "75.0% of the candidates were passed over" in said["Was anything skipped?"]["detail"]


def test_weights_of_those_chosen(tmp_path: Path) -> None:
    with WeightStore(tmp_path / "store") as store:
        for step in range(50):
            store.update(np.arange(10, 40), weight=np.zeros(30), step=step)
            losses = np.where(np.arange(10) == 3, np.nan, 2.0)  # a bad loss is one of a batch
            store.record(np.arange(10), losses, np.where(np.isnan(losses), 0.0, 1.0), step=step)
    said = answers(build(tmp_path / "store")["runs"][0])
    detail = said["Did the weights vary enough to matter?"]["detail"]
    assert detail.startswith("25.0% of the candidates were chosen. Effective sample size 90.0% of the batch")
    assert "10.0% of the weights were 0" in said["Was anything skipped?"]["detail"]


def test_batches_of_one(tmp_path: Path) -> None:
    with WeightStore(tmp_path / "store") as store:
        for step in range(200):
            store.record([step], [1.0], [1.0 + step % 2 * 2], step=step)
    varied = answers(build(tmp_path / "store")["runs"][0])["Did the weights vary enough to matter?"]
    assert varied["answer"] == "Yes"
    assert "Effective sample size 80.0% of all weights" in varied["detail"]
    assert "200 steps of one weight each" in varied["detail"]


@pytest.mark.parametrize("closed", [True, False])
def test_a_second_run_into_a_store(tmp_path: Path, closed: bool) -> None:
    store = WeightStore(tmp_path / "store")
    for run, count in enumerate((12, 9)):
        for step in range(count):
            store.update(np.arange(40, 50), weight=np.zeros(10), step=step)
            for part in (np.arange(20), np.arange(20, 40)):  # micro-batches
                store.record(part, np.full(20, 9.0 - 8 * run - step / 10), 1 + part % 3, step=step)
        if closed:
            store.close()
            store = WeightStore(tmp_path / "store")
    store.close()
    value = build(tmp_path / "store")
    run = value["runs"][0]
    fell = answers(run)["Did the loss fall?"]
    assert fell["answer"].startswith("Yes, from ")
    assert "in the first interval since the steps began anew" in fell["detail"]
    assert max(run["steps"]["loss"]) <= 1
    assert run["facts"]["steps"] == 9
    assert "20.0% of the candidates were passed over" in answers(run)["Was anything skipped?"]["detail"]
    (note,) = (note for note in value["notes"] if "begin anew" in note)
    assert "step 0 comes after step 11" in note
    assert "360 of 840 visits" in note


def test_runs_written_together(tmp_path: Path) -> None:
    with WeightStore(tmp_path / "store") as store:
        for step in (*range(12), *range(9)):
            store.record(np.arange(20), np.full(20, step), np.arange(20), step=step)
    value = build(tmp_path / "store")
    assert (value["runs"][0]["facts"]["steps"], value["runs"][0]["steps"]["last"]) == (9, 8)
    assert any("180 of 420 visits" in note for note in value["notes"])


def test_a_run_that_goes_on_from_a_state_is_one_run(tmp_path: Path) -> None:
    data = torch.arange(64.0)
    with WeightedStream(data, LinUpper(), store=tmp_path / "store") as stream:
        state = None
        for losses, weight in stream.loader(batch_size=8):
            weight.resolve(losses)
            state = stream.state_dict() if stream.store.stats()["visits"] == 32 else state
    assert state is not None
    with WeightedStream(data, LinUpper(), store=tmp_path / "store") as stream:
        stream.load_state_dict(state)
        for losses, weight in stream.loader(batch_size=8):
            weight.resolve(losses)
    value = build(tmp_path / "store")
    assert not any("begin anew" in note for note in value["notes"])
    assert value["runs"][0]["facts"] == {"samples": 64, "trained on": 64, "visits": 64, "steps": 8}


def test_a_shard_that_was_never_trained_on(tmp_path: Path) -> None:
    store, _ = a_run(tmp_path)
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["fingerprint"]["shards"]["lost.parquet"] = 50
    (store / "manifest.json").write_text(json.dumps(manifest))
    skipped = answers(build(store)["runs"][0])["Was anything skipped?"]
    assert (skipped["answer"], skipped["level"]) == ("50 samples, 1 whole shards", "look")
    assert "lost.parquet" in skipped["detail"]


def test_a_part_of_the_dataset(tmp_path: Path) -> None:
    store, shards = a_run(tmp_path)
    shutil.rmtree(store)
    with WeightStore(store) as opened:
        opened.record(np.arange(5), np.ones(5), np.ones(5), step=0)
        opened.update(np.arange(5, 9), weight=np.zeros(4), step=0)
    skipped = answers(build(store)["runs"][0])["Was anything skipped?"]
    assert skipped["answer"] == "Not known"
    assert "4 were drawn and never chosen" in skipped["detail"]
    with pytest.raises(SourceError, match="0 of 9 ids"):  # the texts of other samples
        build(store, options=Options(data=shards))


def test_other_data_and_other_fields(tmp_path: Path) -> None:
    rows = [{"text": f"text {number}"} for number in range(40)]
    files = {}
    for name, kept in (("data", rows), ("fewer", rows[:30])):
        files[name] = tmp_path / f"{name}.jsonl"
        files[name].write_text("".join(json.dumps(row) + "\n" for row in kept))
    for name, count in (("one", 40), ("two", 40), ("other", 50)):
        with WeightedStream(torch.rand(count), Uniform(), store=tmp_path / name) as stream:
            for losses, weight in stream.loader(batch_size=10):
                weight.resolve(losses)
    build(tmp_path / "one", tmp_path / "two", Options(data=files["data"]))
    for options, says in (
        (Options(data=files["data"], text="txt"), "fields text"),
        (Options(data=files["fewer"]), "30 rows"),
        (Options(data=files["data"], id="text"), "by the column 'text'"),
    ):
        with pytest.raises(SourceError, match=says):
            build(tmp_path / "one", options=options)
    with pytest.raises(StoreMismatchError, match="size 50 instead of 40"):
        build(tmp_path / "one", tmp_path / "other")


def test_ids_of_a_function_are_no_rows(tmp_path: Path) -> None:
    rows = [{"text": f"text {number}", "number": 39 - number} for number in range(40)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with WeightedStream(rows, Uniform(), store=tmp_path / "one", id_fn=lambda row: row["number"]) as stream:
        for _, weight in stream.loader(batch_size=10):
            weight.resolve(torch.rand(10))
    with pytest.raises(SourceError, match="come from a function") as caught:
        build(tmp_path / "one", options=Options(data=tmp_path / "data.jsonl"))
    assert "--id COLUMN" in str(caught.value)
    value = build(tmp_path / "one", options=Options(data=tmp_path / "data.jsonl", id="number"))
    assert "text 39" in json.dumps(value)


def test_other_data_of_more_rows_than_are_looked_at(tmp_path: Path) -> None:
    for name, count in (("data", 60), ("more", 61), ("less", 59)):
        rows = [json.dumps({"text": f"text {number}"}) + "\n" for number in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
    data = {name: Texts(tmp_path / f"{name}.jsonl", "torch-map", size=60) for name in ("data", "more", "less")}
    assert len(data["data"].read(np.arange(10), 20).texts) == 10
    for name, found in (("more", "61 rows"), ("less", "59 rows")):
        with pytest.raises(SourceError, match=found):
            data[name].read(np.arange(10), 20)


def test_a_shortened_journal(tmp_path: Path) -> None:
    train(tmp_path / "store", np.arange(200), names=False)
    with WeightStore(tmp_path / "store") as store:
        state = store.state_dict()
        store.record(np.arange(200), np.ones(200), np.ones(200), step=77)
        store.compact(state)
    value = build(tmp_path / "store")
    assert any("charts begin at step 77" in note for note in value["notes"])
    assert value["runs"][0]["facts"]["visits"] == 799
    assert value["runs"][0]["facts"]["steps"] == 78


def test_a_shortened_journal_is_not_called_the_run(tmp_path: Path) -> None:
    with WeightStore(tmp_path / "store") as store:
        for step in range(60):
            store.record(np.arange(20), np.full(20, 9 - step / 10), np.ones(20), step=step)
            if step == 29:
                state = store.state_dict()
        store.compact(state)
    value = build(tmp_path / "store")
    assert value["runs"][0]["facts"]["steps"] == 60
    assert "in the first interval of what the journal has" in answers(value["runs"][0])["Did the loss fall?"]["detail"]


def test_a_damaged_journal_is_said(tmp_path: Path) -> None:
    train(tmp_path / "store", np.arange(2000), epochs=4)
    file = next((tmp_path / "store" / "journal").glob("*.arrow"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    value = build(tmp_path / "store")
    broken = answers(value["runs"][0])["Was anything broken?"]
    assert "a damaged journal" in broken["answer"]
    assert broken["level"] == "look"
    assert 0 < sum(line is not None for line in value["runs"][0]["steps"]["loss"]) < 40
    page(value)


def test_samples_are_drawn_from_many(tmp_path: Path) -> None:
    ids = np.arange(5000)
    train(tmp_path / "store", ids, epochs=1, batch=500)
    value = build(tmp_path / "store", options=Options(samples=1200, tracked=1000))
    assert any("drawn at random" in note and "of the 5,000 samples" in note for note in value["notes"])
    assert len(value["samples"]["columns"]["id"]) == 1200
    assert value["runs"][0]["facts"]["samples"] == 5000
    # The highest last weights are among them, whatever was drawn.
    with WeightStore(tmp_path / "store", mode="r") as store:
        last = store.get(ids)["weight"]
    assert set(np.argsort(-last, kind="stable")[:100].tolist()) == set(listed(value, "up"))


@pytest.mark.parametrize("form", ["jsonl", "txt", "parquet"])
def test_texts_of_a_file_by_row(tmp_path: Path, form: str) -> None:
    some = texts(40)
    train(tmp_path / "store", np.arange(40))
    manifest = json.loads((tmp_path / "store" / "manifest.json").read_text())
    manifest["fingerprint"] = {"kind": "torch-map", "name": "list", "size": 40, "shards": {}}
    (tmp_path / "store" / "manifest.json").write_text(json.dumps(manifest))
    data = tmp_path / f"data.{form}"
    if form == "parquet":
        data = next(write_shards(tmp_path, some).glob("*.parquet"))
    elif form == "jsonl":
        data.write_text("".join(json.dumps({"body": text}) + "\n" for text in some))
    else:
        data.write_text("\n".join(some))
    value = build(tmp_path / "store", options=Options(data=data, text="body" if form == "jsonl" else "text"))
    columns = value["samples"]["columns"]
    assert {int(key): text for key, text in zip(columns["id"], columns["text"], strict=True)} == dict(enumerate(some))
    assert answers(value["runs"][0])["Are there repeats?"]["answer"] == "25% of the texts repeat another"


def test_stores_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        build(tmp_path / "missing")
    with pytest.raises(StoreError, match="directory"):
        build("redis://localhost/0")
    train(tmp_path / "store", np.arange(30))
    manifest = json.loads((tmp_path / "store" / "manifest.json").read_text())
    (tmp_path / "store" / "manifest.json").write_text(json.dumps({**manifest, "version": 99}))
    with pytest.raises(StoreMismatchError, match="version 99"):
        build(tmp_path / "store")
