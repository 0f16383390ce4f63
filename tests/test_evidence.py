"""The benchmarks of costs, effects, peers and scale: tiny, and whether they would notice what they look for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import harness, journal_ops, scale, scale_constants, scale_ranks, store_ops, store_rivals
from benchmarks.__main__ import listed, main
from benchmarks.effects_rows import ROWS
from benchmarks.effects_runs import Task, run
from benchmarks.plan import BENCHMARKS

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def test_every_benchmark_has_a_module_and_is_listed() -> None:
    folder = Path(harness.__file__).parent
    runnable = {file.stem for file in folder.glob("*.py") if '__name__ == "__main__"' in file.read_text()}
    assert runnable - {"__main__", "tables", "results_page"} == BENCHMARKS.keys()
    assert sum(one.quick_minutes for one in BENCHMARKS.values() if one.quick is not None) < 20
    assert all(name in listed() for name in BENCHMARKS)


def test_results_go_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(harness.FOLDER, "")
    calls: list[list[str]] = []

    def start(name: str, arguments: tuple[str, ...]) -> int:
        calls.append([name, *arguments])
        if name == "scale":
            harness.save("scale", {}, [harness.Table("Of scale", [("n", "")], [[1]])])
        return harness.LEFT_OUT if name == "scoring" else 0

    monkeypatch.setattr("benchmarks.__main__.start", start)
    assert main(["scale", "scoring", "--results", str(tmp_path / "mine")]) == 0
    assert calls == [["scale", "--quick"], ["scoring", "--quick"]]
    assert "**Of scale**" in (tmp_path / "mine" / "tables.md").read_text()
    calls.clear()
    assert main(["method_cost", "--gpu", "--part", "1", "--results", str(tmp_path)]) == 0
    assert calls == [["method_cost", "--device", "cuda", "--sizes", "124M"]]
    calls.clear()
    assert main(["scale", "--full", "--results", str(tmp_path)]) == 0
    assert calls == [["scale"]]


@pytest.fixture(scope="module")
def keepers(tmp_path_factory: pytest.TempPathFactory) -> Any:
    pytest.importorskip("lmdb")
    folder = tmp_path_factory.mktemp("rivals")
    with store_rivals.redis_server(folder) as address:
        made = store_rivals.make_keepers(folder, 1000, address)
        yield made
        for keeper in made.values():
            keeper.close()


def test_all_keepers_keep_the_same(keepers: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    for step in range(12):
        ids = np.sort(rng.permutation(1000)[:50])
        loss, weight = rng.random((2, 50), np.float32)
        for keeper in keepers.values():
            keeper.update(ids, loss, weight, step)
    found = {name: keeper.get(ids) for name, keeper in keepers.items()}
    ours = found.pop(store_rivals.STORE)
    assert len(found) >= 4
    for other in found.values():
        for column in ("loss", "last_loss", "weight", "visits", "last_step"):
            np.testing.assert_allclose(other[column], ours[column], rtol=1e-5)


def test_a_level_of_the_rivals() -> None:
    pytest.importorskip("lmdb")
    rows = store_rivals.level(2000, 500, None, 16, 3)
    assert rows[0]["keeper"] == store_rivals.STORE
    assert all(row["get"] > 0 and row["filled"] > 0 for row in rows)
    assert all(row["get ratio"].low > 0 for row in rows[1:])


def test_the_journal_is_measured(tmp_path: Path) -> None:
    assert [row[0] for row in journal_ops.states(tmp_path, 500, 2)] == [500, 500]
    (_, place, _, _, small), (_, records, _, _, large) = journal_ops.states(tmp_path / "again", 500, 2)
    assert (place, records) == ("a place in the journal", "all records")
    assert small < 300 < 32 * 500 < large
    assert journal_ops.rates(tmp_path, 3000, 1).keys() >= {"undone", "made anew from the journal", "compacted"}
    assert 60 < journal_ops.journal_bytes(tmp_path, 20_000) < 80


def test_the_store_s_table_has_a_rival_in_each_row() -> None:
    figures = [
        {"what": "get", "batch": 64, "microseconds": {"store": 3.0, "same work": 2.0, "bare": 1.0}},
        {"what": "hashed get", "batch": 64, "microseconds": {"store": 3.0, "dict + NumPy": 6.0}},
    ]
    assert [row[-1] for row in store_ops.as_table(figures).rows] == [1.5, 0.5]


def cluster(**changes: Any) -> scale_ranks.Cluster:
    given = {"ranks": 16, "step": 0.1, "spread": 0.0, "latency": 1e-4, "tail": 0.0, "bandwidth": 1e9, "local": 1e-5}
    return scale_ranks.Cluster(**{**given, "message": 1000, "work": 1e-3, "node": 4, **changes})


def test_a_ring_takes_its_hops_and_doubling_their_logarithm() -> None:
    rng, ready = np.random.default_rng(0), np.zeros(16)
    hop = 1e-4 + 1e-6
    assert scale_ranks.all_gather(cluster(), ready, "ring", rng) == pytest.approx(15 * hop)
    assert scale_ranks.all_gather(cluster(), ready, "doubling", rng) == pytest.approx(4 * 1e-4 + 15e-6)
    nodes = scale_ranks.all_gather(cluster(), ready, "nodes", rng)
    assert nodes == pytest.approx(3 * (1e-4 + 4e-6) + 8e-5)
    late = ready.copy()
    late[3] = 1.0
    assert (scale_ranks.all_gather(cluster(), late, "ring", rng)[[2, 3]] >= 1.0).all()


def test_a_joint_strategy_waits_and_a_running_window_does_not() -> None:
    joint = scale_ranks.simulate(cluster(), True, "ring", 5)
    running = scale_ranks.simulate(cluster(), False, "ring", 5)
    assert joint["plain"] == running["plain"] == pytest.approx(0.1)
    assert joint["weighted"] - 0.1 == pytest.approx(15 * (1e-4 + 1e-6) + 1e-3)
    assert running["weighted"] - 0.1 == pytest.approx(1e-3)
    slow = scale_ranks.simulate(cluster(latency=0.02), False, "ring", 5)
    assert slow["weighted"] > 0.15  # the exchange takes longer than the step


def test_scale_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(harness.FOLDER, str(tmp_path))
    monkeypatch.setattr(scale, "RANKS", (8, 16))
    monkeypatch.setattr(scale_constants, "exchange_of", lambda ranks, repeats: 1e-4)
    work = scale_constants.work_of
    monkeypatch.setattr(scale_constants, "work_of", lambda ranks, samples, repeats: work(min(ranks, 16), samples, 2))
    scale.main(["--quick", "--steps", "2"])
    kept = json.loads((tmp_path / "scale.json").read_text())
    assert kept["constants"]["record, bytes"] == 32
    assert kept["constants"]["packet of 16, bytes"] == 8 * 17 + 16 * 12
    assert len(kept["simulated"]) == 2 * len(scale.WAYS)
    assert len(kept["tables"]) == 4


def test_an_exchange_between_processes_is_measured() -> None:
    assert 0 < scale_constants.exchange_of(2, 3) < 30


@pytest.fixture(scope="module")
def corpus() -> Any:
    """A few texts in place of the installed packages."""
    pytest.importorskip("tokenizers")
    pytest.importorskip("sklearn")
    from benchmarks.effects_streams import Texts

    words = {"reference": ["if", "else", "while", "return"], "readme": ["pip", "install", "the", "package"]}

    def made(folder: Path, seed: int, size: int) -> Texts:
        rng = np.random.default_rng(seed)

        def texts(kind: str, count: int) -> list[str]:
            return [" ".join(rng.choice(words[kind], 20)) for _ in range(count)]

        kinds = ["reference", "readme", "readme", "readme"] * (size // 4)
        stream = [texts(kind, 1)[0] for kind in kinds]
        stream[-8:] = [stream[3]] * 8
        wanted = np.array(kinds) == "reference"
        held = [texts("reference", count) for count in (32, 16, 16)]
        return Texts(stream, kinds, wanted, *held, texts("readme", 16))

    return made


@pytest.fixture
def tiny(corpus: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Task]:
    from benchmarks import effects_streams

    monkeypatch.setitem(effects_streams.STREAMS, "packages", corpus)
    monkeypatch.setitem(effects_streams.STREAMS, "redundant", corpus)
    effects_streams.tokens.cache_clear()
    yield Task("uniform", 0, size=64, steps=8, rate=1e-2, batch=16, model="tiny", evaluations=2)
    effects_streams.tokens.cache_clear()


@pytest.fixture(scope="module")
def uniform_losses() -> dict[str, float]:
    """Filled by the first of the tests that follow."""
    return {}


SAME = ("uniform, learning rate of Adapt", "uniform, learning rate of AdaptBM25", "Kakurenbo")
"""Rates of matched rows are put in by `effects.measure`; nothing is surely learned so soon."""


@pytest.mark.parametrize("name", [name for name in ROWS if name != "uniform"])
def test_every_row_of_the_effects_makes_a_run(name: str, tiny: Task, uniform_losses: dict[str, float]) -> None:
    if not uniform_losses:
        uniform_losses.update(run(tiny)["losses"])
    result = run(replace(tiny, row=name))
    assert result["curve"]["steps"] == [4, 8]
    assert len(result["curve"]["report"]) == 2
    assert 1 < result["losses"]["report"] < 7
    assert (result["losses"] == uniform_losses) == (name in SAME)


def test_a_fine_tune_begins_where_other_text_led(tiny: Task) -> None:
    from benchmarks.effects_runs import before, begin, tokens

    data = tokens(tiny.stream, tiny.data, 0, tiny.size, 300, 16)
    fresh, led = (begin(replace(tiny, before=steps), data) for steps in (0, 3))
    assert not torch.equal(fresh.head.weight, led.head.weight)
    assert torch.equal(led.head.weight, begin(replace(tiny, before=3, row="Adapt"), data).head.weight)
    before.cache_clear()


def result_of(report: list[float], seconds: float, prepared: float = 0.0) -> dict[str, Any]:
    curve = {"steps": [1, 2], "seconds": [seconds, 2 * seconds], "choose": report[::-1], "report": report}
    losses = {"report": report[-1], "choose": report[0], "rest": 2.0}
    return {"curve": curve, "losses": losses, "prepared": prepared, "ess": 1.0, "mean weight": 1.0}


def test_rows_are_held_against_uniform_seed_by_seed() -> None:
    from benchmarks.effects import figures, interval

    uniform = [result_of([4.0, 3.0], 1.0), result_of([4.0, 3.2], 1.0)]
    mine = [result_of([3.0, 2.0], 1.5, prepared=0.5), result_of([3.3, 3.1], 1.5, prepared=0.5)]
    row = figures("mine", 1.0, mine, uniform)
    assert (row["below uniform"], row["arrived"]) == (2, 2)
    assert row["steps share"].median == pytest.approx((0.5 + 1.0) / 2)
    assert row["time share"].median == pytest.approx((2.0 / 2 + 3.5 / 2) / 2)
    assert row["target difference"].median == pytest.approx(-0.55)
    assert row["best difference"].median == pytest.approx((3.0 - 4.0 + 3.3 - 4.0) / 2)  # best on "choose", not "report"
    never = figures("never", 1.0, [mine[0], result_of([5.0, 4.0], 1.0)], uniform)
    assert (never["arrived"], never["steps share"]) == (1, None)
    pytest.importorskip("scipy")
    spread = interval([1.0, 2.0, 3.0])
    assert (spread.median, round(spread.high - 2.0, 3)) == (2.0, 2.484)  # 4.303 * 1 / sqrt(3)


def test_a_matched_row_trains_at_the_rate_of_the_mean_weight(tiny: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from benchmarks import effects

    asked: list[tuple[str, float]] = []

    def pretend(task: Task) -> dict[str, Any]:
        asked.append((task.row, task.rate))
        return result_of([4.0, 3.0], 1.0) | {"mean weight": 0.5, "row": task.row, "seed": 0, "rate": task.rate}

    monkeypatch.setattr(effects, "run", pretend)
    monkeypatch.setattr(effects, "ProcessPoolExecutor", lambda n, mp_context: ThreadPoolExecutor(1))
    monkeypatch.setattr(effects, "save", lambda *given: None)
    effects.main(["--only", "uniform, learning rate of AdaptBM25", "--steps", "2", "--seeds", "1"])
    assert asked == [("uniform", 1.5e-2), ("AdaptBM25", 1.5e-2), ("uniform, learning rate of AdaptBM25", 0.75e-2)]


def test_a_window_over_the_batch_says_nothing_in_batches_of_one(tiny: Task) -> None:
    from benchmarks import batch_sizes

    options = SimpleNamespace(batches=[1], seeds=1, samples=16)
    runs = {(1, way, 0): run(replace(tiny, row=way, batch=1, steps=48)) for way in batch_sizes.WAYS}
    uniform, batch, running = batch_sizes.figures(runs, options)  # type: ignore[arg-type]
    assert uniform["spread of weights"] == batch["spread of weights"] == 0
    assert batch["losses"] == uniform["losses"]
    assert running["spread of weights"] > 0.01


def test_what_holds_of_ours_beside_the_peers() -> None:
    from benchmarks.peers import findings

    found = {what: by["weighted_stream"] for what, by in findings().items()}
    errors = [float(value) for what, value in found.items() if "largest error" in what]
    assert len(errors) == 4
    assert max(errors) < 1e-6
    by_start = {what.split(",")[0].split(":")[0]: value for what, value in found.items()}
    assert by_start["samples that got another one's loss"] == "0 of 640"
    assert by_start["64 losses in bfloat16"] == by_start["64 losses of ids around 2^24"] == "0 of 64"
    assert by_start["batches of an epoch of 100 samples"] == "4"
    assert by_start["an unknown option"] == "StrategyError"
    assert by_start["stops within an epoch and goes on"] == "each sample once"
    assert by_start["share of an epoch's rest that follows a change of weights within it"] == "100%"
    assert by_start["more than 16.8 million samples"] == "works"


def test_what_breaks_by_hand_and_by_drawing() -> None:
    from benchmarks.peers_checks import micro_batches
    from benchmarks.peers_memory import sampling

    by_hand = [float(by["by hand"]) for by in micro_batches().values()]
    assert by_hand[0] < 1e-6
    assert min(by_hand[1:]) > 0.1
    drawn = [by["WeightedRandomSampler"] for by in sampling().values()]
    assert drawn[0] in ("36%", "37%")
    assert drawn[1] == "0%"


def test_loops_and_trainers_beside_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    from benchmarks import peers, peers_loops, peers_trainers
    from weighted_stream.demo.model import GPTConfig

    monkeypatch.setattr(peers_loops, "SMALL", GPTConfig(vocab=32, context=8, layers=1, width=16, heads=2))
    monkeypatch.setattr(peers_loops, "ROWS", 192)
    monkeypatch.setattr(peers, "info_batch", lambda: None)
    options = SimpleNamespace(device="cpu", steps=1, repeats=1)
    rows = peers.loops(options).rows  # type: ignore[arg-type]
    assert [row[0] for row in rows] == [name for name in peers_loops.WAYS if "InfoBatch's" not in name]
    way = next(iter(peers_trainers.WAYS.values()))
    assert peers_trainers.step_time(way, 3, 4, 2, "cpu") > 0


def test_a_folder_that_is_no_clone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import peers_found

    monkeypatch.setenv(peers_found.INFOBATCH, str(tmp_path))
    peers_found.info_batch.cache_clear()
    with pytest.raises(SystemExit, match="no clone of InfoBatch"):
        peers_found.info_batch()
    peers_found.info_batch.cache_clear()
