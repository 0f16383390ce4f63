"""StepLog: every sample once, right figures, nothing that stops the trainer."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from weighted_stream import (
    LinUpper,
    ParquetDataset,
    RhoLoss,
    StepLog,
    StoreError,
    StrategyError,
    Uniform,
    WeightedStream,
)
from weighted_stream.figures import sender
from weighted_stream.figures.measures import weighing
from weighted_stream.shards.convert import convert
from weighted_stream.shards.writing import ShardSize

LOSSES = np.random.default_rng(3).gamma(2.0, size=64).astype(np.float32)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]


def stream_of(losses: Any = LOSSES, strategy: Any = None, **options: Any) -> WeightedStream:
    return WeightedStream([{"loss": float(loss)} for loss in losses], strategy or LinUpper(), **options)


def epoch(stream: WeightedStream, size: int = 8, factor: float = 1.0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    weighed = []
    for batch, weight in stream.loader(batch_size=size):
        losses = batch["loss"].float() * factor
        weighed.append((losses, weight.resolve(losses)))
    return weighed


@pytest.mark.parametrize("every", [1, 3])
def test_a_line_is_of_the_batches_since_the_line_before(tmp_path: Path, every: int) -> None:
    with stream_of() as stream:
        StepLog(stream, tmp_path / "deep" / "log.jsonl", every=every)
        weighed = epoch(stream)
    lines = rows(tmp_path / "deep" / "log.jsonl")
    ends = [*range(every, 9, every), *([8] if 8 % every else [])]
    assert [line["step"] for line in lines] == ends
    begin = 0
    for line, end in zip(lines, ends, strict=True):
        losses, weights = (torch.cat(column).numpy() for column in zip(*weighed[begin:end], strict=True))
        for name, value in weighing(losses, weights).items():
            assert line[name] == pytest.approx(value, rel=1e-5), name
        assert line["samples"] == line["visits"] == end * 8
        assert line["epoch"] == 0
        begin = end


def test_micro_batches_and_batches_that_are_run_again_count_once(tmp_path: Path) -> None:
    with stream_of(strategy=LinUpper(window="running")) as stream:
        StepLog(stream, tmp_path / "log.jsonl", every=1)
        for batch, weight in stream.loader(batch_size=32):
            for _ in range(2):  # out of memory, once
                for part, loss in zip(weight.split(12), batch["loss"].float().split(12), strict=True):
                    (loss * part).sum()
    lines = rows(tmp_path / "log.jsonl")
    assert [(line["step"], line["window"]) for line in lines] == [(1, 32), (2, 32)]
    assert lines[0]["loss_mean"] == pytest.approx(LOSSES[:32].mean(), rel=1e-5)


def test_a_batch_that_never_comes_whole_is_logged_with_the_next(tmp_path: Path) -> None:
    with stream_of(strategy=LinUpper(window="running")) as stream:
        StepLog(stream, tmp_path / "log.jsonl", every=1)
        for batch, weight in stream.loader(batch_size=32):
            batch["loss"].float()[:12] * weight[:12]
    assert [(line["step"], line["window"]) for line in rows(tmp_path / "log.jsonl")] == [(1, 12), (2, 12)]


def test_what_was_known_before() -> None:
    with stream_of() as stream:
        log = StepLog(stream, every=1)
        stream.store.update([0, 1], similarity=[0.1, 0.2])
        seen = []
        for _ in range(2):
            for batch, weight in stream.loader(batch_size=8):
                batch["loss"].float() * weight
                seen.append(log.latest)
    assert (seen[0]["new_share"], seen[0]["unscored_share"]) == (1.0, 0.75)
    assert "staleness" not in seen[0]
    # A second epoch of eight batches: every sample was weighed eight steps ago.
    assert (seen[8]["new_share"], seen[8]["staleness"], seen[8]["staleness_max"]) == (0.0, 8.0, 8.0)


def test_a_second_run_into_a_store_has_known_its_samples(tmp_path: Path) -> None:
    figures = []
    for steps in (3, 1):
        with stream_of(store=tmp_path / "store") as stream:
            log = StepLog(stream, every=1)
            for _ in range(steps):
                torch.ones(8) * stream.weight(list(range(8)))
            figures.append(log.latest)
    assert [(line["step"], line["new_share"], line["staleness"]) for line in figures] == [(3, 0.0, 1.0), (1, 0.0, 0.0)]


def test_values_that_are_not_finite_leave_a_line_whole(tmp_path: Path) -> None:
    losses = LOSSES.copy()
    losses[:8] = np.nan
    losses[9] = np.inf
    with stream_of(losses) as stream:
        StepLog(stream, tmp_path / "log.jsonl", every=1)
        epoch(stream)
    first, second, *_ = rows(tmp_path / "log.jsonl")
    assert (first["nonfinite_share"], first["window"], first["nonfinite"]) == (1.0, 8, 8)
    assert "loss_mean" not in first
    assert first["ess"] == 0.0
    assert (second["nonfinite_share"], second["nonfinite"]) == (0.125, 9)
    assert second["loss_mean"] == pytest.approx(losses[[8, *range(10, 16)]].mean(), rel=1e-5)


def test_groups_with_hostile_names(tmp_path: Path) -> None:
    names = ["a/b\n{}", "\x1b[31m" + "x" * 100_000, "\u202e../..", "a b {}", ""]
    data = [{"loss": float(loss), "domain": names[number % 5]} for number, loss in enumerate(LOSSES)]
    with WeightedStream(data, LinUpper(), group_fn="domain") as stream:
        StepLog(stream, tmp_path / "log.jsonl", every=8)
        weighed = epoch(stream)
    (line,) = rows(tmp_path / "log.jsonl")
    shares = {name: value for name, value in line.items() if name.startswith("group_share/")}
    assert len(shares) == 5
    assert sum(shares.values()) == pytest.approx(1.0, rel=1e-5)
    assert max(map(len, line)) < 80
    weights = torch.cat([weights for _, weights in weighed]).numpy()
    assert shares["group_share/a_b_"] == pytest.approx(weights[::5].sum() / weights.sum(), rel=1e-5)
    assert line["group_weight/a_b_"] == pytest.approx(weights[::5].mean(), rel=1e-5)


def test_shards(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text("".join(json.dumps({"loss": float(loss)}) + "\n" for loss in LOSSES))
    convert(tmp_path / "data.jsonl", tmp_path / "shards", "parquet", size=ShardSize(samples=24))
    with WeightedStream(ParquetDataset(tmp_path / "shards"), LinUpper()) as stream:
        log = StepLog(stream, every=8)
        weights = torch.cat([weights for _, weights in epoch(stream)]).numpy()
    shares = {name: value for name, value in log.latest.items() if name.startswith("shard_share/")}
    assert list(shares.values()) == pytest.approx([part.sum() / 64 for part in np.split(weights, [24, 48])], rel=1e-4)
    assert all(name.endswith(".parquet") for name in shares)


def test_a_strategy_that_selects_shows_its_choice() -> None:
    strategy = RhoLoss(
        torch.nn.Identity(),
        lambda batch: torch.zeros(len(batch["loss"])),
        lambda model, batch: batch["loss"].float(),
        budget=0.25,
    )
    with stream_of(strategy=strategy) as stream:
        log = StepLog(stream, every=1)
        for batch, weight in stream.loader(batch_size=4):
            batch["loss"].float() * weight
    assert (log.latest["window"], log.latest["step"]) == (4, 4)
    assert log.latest["samples"] == 64


def test_lines_come_at_the_same_steps_after_a_restart(tmp_path: Path) -> None:
    def run(path: Path, stop: int | None = None, state: Any = None) -> Any:
        stream = stream_of(store=path / "store")
        StepLog(stream, path / "log.jsonl", every=3)
        if state is not None:
            stream.load_state_dict(state)
        for number, (batch, weight) in enumerate(stream.loader(batch_size=8), 1):
            batch["loss"].float() * weight
            if number == stop:
                saved = stream.state_dict()
                stream.close()
                return saved
        stream.close()
        return None

    run(tmp_path / "a")
    run(tmp_path / "b", state=run(tmp_path / "b", stop=4))
    whole, parts = rows(tmp_path / "a" / "log.jsonl"), rows(tmp_path / "b" / "log.jsonl")
    assert [line["step"] for line in whole] == [3, 6, 8]
    assert [line["step"] for line in parts] == [3, 4, 6, 8]
    drop = ("time", "epoch")
    assert {**parts[-1], **dict.fromkeys(drop)} == {**whole[-1], **dict.fromkeys(drop)}


def test_a_state_that_is_loaded_forgets_what_was_not_logged(tmp_path: Path) -> None:
    with stream_of() as stream:
        log = StepLog(stream, every=4)
        for number, (batch, weight) in enumerate(stream.loader(batch_size=8), 1):
            batch["loss"].float() * weight
            if number == 1:
                state = stream.state_dict()
            if number == 3:
                break
        stream.load_state_dict(state)
        for batch, weight in stream.loader(batch_size=8):
            batch["loss"].float() * weight
            if log.latest:
                break
        assert (log.latest["step"], log.latest["window"]) == (4, 24)


def test_a_file_that_ends_within_a_line_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo')
    with stream_of() as stream:
        StepLog(stream, path, every=8)
        epoch(stream)
    first, cut, last = path.read_text().splitlines()
    assert (first, cut) == ('{"step": 1}', '{"step": 2, "lo')
    assert json.loads(last)["step"] == 8


def test_a_function_and_the_end(tmp_path: Path) -> None:
    said: list[tuple[dict[str, float], int]] = []
    stream = stream_of()
    log = StepLog(stream, lambda figures, step: said.append((figures, step)), tmp_path / "log.jsonl", every=5)
    epoch(stream)
    log.close()
    assert [step for _, step in said] == [5, 8]
    assert said[1][0] == log.latest
    assert all(type(value) is float for figures, _ in said for value in figures.values())
    epoch(stream)
    log.close()
    stream.close()
    assert len(said) == len(rows(tmp_path / "log.jsonl")) == 2
    with stream_of() as other, StepLog(other, lambda figures, step: said.append((figures, step))):
        epoch(other)
    assert len(said) == 3


def test_a_logger_that_fails_does_not_stop_the_trainer(tmp_path: Path) -> None:
    def fails(figures: dict[str, float], step: int) -> None:
        raise ConnectionError("no network")

    stream = stream_of()
    log = StepLog(stream, fails, tmp_path / "log.jsonl", every=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        epoch(stream)
        log.close()
    (warning,) = caught
    assert "do not get to" in str(warning.message)
    assert "ConnectionError: no network" in str(warning.message)
    assert len(rows(tmp_path / "log.jsonl")) == 8
    stream.close()


def test_a_logger_that_hangs_does_not_hold_up_the_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "MOST_WAITING", 4)
    go, got = threading.Event(), []

    def hangs(figures: dict[str, float], step: int) -> None:
        go.wait(60)
        got.append(step)

    stream = stream_of()
    log = StepLog(stream, hangs, tmp_path / "log.jsonl", every=1)
    with pytest.warns(RuntimeWarning, match="lines wait for it already"):
        epoch(stream, size=4)  # comes back, though nothing was taken
    assert log._senders[0].lost >= 16 - 4 - 1
    go.set()
    log.close()
    assert len(got) + log._senders[0].lost == 16
    stream.close()


def test_a_program_that_ends_without_closing(tmp_path: Path) -> None:
    text = (
        "import sys, torch\nfrom weighted_stream import *\n"
        "stream = WeightedStream([1.0, 2.0, 3.0, 4.0], Uniform())\n"
        "StepLog(stream, sys.argv[1], every=1)\n"
        "for losses, weight in stream.loader(batch_size=1):\n    losses.float() * weight\n"
    )
    subprocess.run([sys.executable, "-c", text, str(tmp_path / "log.jsonl")], check=True, timeout=100)
    assert [line["step"] for line in rows(tmp_path / "log.jsonl")] == [1, 2, 3, 4]


def test_many_batches_between_lines_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weighted_stream.figures.seen.MOST_SAMPLES", 20)
    with stream_of() as stream:
        log = StepLog(stream, every=8)
        epoch(stream)
        assert log.latest["window"] == 16
        assert log.latest["loss_mean"] == pytest.approx(LOSSES[-16:].mean(), rel=1e-5)


def test_a_stream_is_freed_with_its_log(tmp_path: Path) -> None:
    import weakref

    stream = stream_of(strategy=Uniform())
    feedback = weakref.ref(stream._live())
    StepLog(stream, tmp_path / "log.jsonl", every=1)
    epoch(stream)
    del stream
    assert feedback() is None


def test_refusals(tmp_path: Path) -> None:
    with stream_of() as stream:
        for to in (7, None, object()):
            with pytest.raises(StrategyError, match="cannot be logged there"):
                StepLog(stream, to)
        with pytest.raises(StrategyError, match="every"):
            StepLog(stream, every=0)
        with pytest.raises(StrategyError, match="needs a stream"):
            StepLog(LOSSES)  # type: ignore[arg-type]
        (tmp_path / "file").touch()
        with pytest.raises(StoreError, match="Cannot write the log"):
            StepLog(stream, tmp_path / "file" / "log.jsonl")
        with pytest.raises(StoreError, match="Cannot write the log"):
            StepLog(stream, tmp_path)
        assert stream._live().onlookers == []
