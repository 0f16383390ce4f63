"""The benchmarks' harness: pairs, spreads, tables, results; the standard mixture and runs on it."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_mixture import write_small_mixture

from benchmarks import harness, mixtures, tables


def test_pairs_alternate_and_ratios_go_pair_by_pair() -> None:
    calls: list[str] = []
    ours, theirs = iter([99.0, 2.0, 4.0, 9.0]), iter([99.0, 1.0, 4.0, 3.0])

    def a() -> float:
        calls.append("a")
        return next(ours)

    def b() -> float:
        calls.append("b")
        return next(theirs)

    first, second, ratio = harness.paired(a, b, repeats=3, warmup=1)
    assert "".join(calls) == "baabbaab"
    assert (first.median, second.median) == (4.0, 3.0)
    assert (ratio.low, ratio.median, ratio.high) == (1.0, 2.0, 3.0)


def test_results_are_kept_with_their_machine(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(harness.FOLDER, str(tmp_path / "mine"))
    monkeypatch.setattr("sys.argv", ["x", "--data", str(tmp_path), "--quick"])
    spread = harness.Spread.of([1.0, 2.0, 4.0])
    columns = [("what", ""), ("time", "µs"), ("n", "")]
    shown = harness.Table("A title", columns, [["a|b", spread, 12_345], ["c", None, 0.12345]], "A note.")
    file = harness.save("x", {"ratio": spread}, [shown])
    assert file == tmp_path / "mine" / "x.json"
    kept = json.loads(file.read_text())
    assert kept["ratio"] == {"median": 2.0, "low": 1.0, "high": 4.0}
    assert "torch" in kept["machine"]
    assert kept["command"].endswith(f"--data {tmp_path.name} --quick")
    assert str(tmp_path) not in kept["command"]
    assert str(harness.Spread(2.0, 1.0, 4.0)) == "2 (1–4)"
    assert kept["tables"][0]["title"] == "A title"
    assert kept["tables"][0]["rows"] == [["a|b", kept["ratio"], 12_345], ["c", None, 0.12345]]
    page = tables.write(tmp_path / "mine").read_text()
    assert "| what | time, µs | n |" in page
    assert "| a\\|b | 2 (1–4) | 12,345 |\n| c |  | 0.1235 |\n\nA note." in page


def test_pictures_of_published_results_go_to_the_documents(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(harness.FOLDER, str(harness.PUBLISHED))
    assert harness.picture("a") == harness.PUBLISHED.parents[1] / "docs" / "a.png"
    monkeypatch.setenv(harness.FOLDER, str(tmp_path))
    assert harness.picture("a") == tmp_path / "a.png"


def test_tables_line_up() -> None:
    lines = harness.table(["name", "n"], [["a", 1], ["long name", 22]]).splitlines()
    assert lines == ["name       n", "---------  --", "a          1", "long name  22"]


@pytest.mark.parametrize("name", ["parquet", "in memory"])
def test_the_loader_benchmark_measures_something(name: str, tmp_path) -> None:
    from benchmarks.loader_overhead import compare, in_memory, write_parquet

    make = write_parquet(tmp_path, 400) if name == "parquet" else in_memory(tmp_path, 400)
    ours, theirs, ratio = compare(make, 400, 0, warm=True, repeats=9)
    assert min(ours.low, theirs.low, ratio.low) > 0


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_mixture(tmp_path_factory.mktemp("data"))


def test_the_standard_mixture(data_folder: Path) -> None:
    mixture = mixtures.standard_mixture(data_folder, seed=0, size=200)
    shares = {name: mixture.domains.count(name) / 200 for name in mixtures.STANDARD}
    assert shares == pytest.approx({name: share / 1000 for name, share in mixtures.STANDARD.items()}, abs=0.005)
    assert mixture == mixtures.standard_mixture(data_folder, seed=0, size=200)
    other = mixtures.standard_mixture(data_folder, seed=1, size=200)
    assert mixture.texts != other.texts
    assert (mixture.choose, mixture.report, mixture.rest) == (other.choose, other.report, other.rest)
    sets = [mixture.texts, mixture.target, mixture.choose, mixture.report, *mixture.rest.values()]
    assert [len(texts) for texts in sets] == [200, 256, 200, 200, 100, 100, 100]
    assert len({text for texts in sets for text in texts}) == sum(map(len, sets))
    assert not any(text.startswith("engl") for text in mixture.texts)


def test_pieces_of_text() -> None:
    assert [len(piece) for piece in mixtures.pieces(["a" * 1000, "b" * 199, "a" * 420])] == [420]
    shuffled, noise = mixtures.garbage(["one two three four five six", "seven eight nine"], random.Random(0))[::-1]
    assert sorted(shuffled.split()) == ["eight", "nine", "seven"]
    assert len(noise) == len("one two three four five six")


def test_a_benchmark_without_its_data_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        mixtures.leave_out_without(tmp_path, mixtures.STANDARD, "standard_mixture")
    assert exit_.value.code == harness.LEFT_OUT
    assert "no gsm8k, wikitext2_valid_test" in capsys.readouterr().out


def test_the_area_under_the_curve_of_what_was_scored() -> None:
    pytest.importorskip("sklearn")
    from benchmarks.mixture_runs import separation

    scores = np.array([0.1, 0.4, 0.35, 0.8, np.nan], np.float32)
    assert separation(scores, np.array([False, False, True, True, False])) == 0.75
    assert separation(np.full(2, np.nan, np.float32), np.array([True, False])) is None


def test_kept_vectors_are_found_by_their_text(tmp_path: Path) -> None:
    from benchmarks.mixture_vectors import Kept, keep

    made: list[str] = []

    class Lengths:
        def encode(self, samples: Sequence[str]) -> torch.Tensor:
            made.extend(samples)
            return torch.nn.functional.normalize(torch.tensor([[1.0, float(len(text))] for text in samples]), dim=1)

    texts = ["a", "bb", "ccc"]
    for _ in range(2):
        keep(tmp_path / "v", Lengths, texts, block=2)
    assert made == texts
    assert torch.equal(Kept(tmp_path / "v").encode(["ccc", "a"]), Lengths().encode(["ccc", "a"]))
    with pytest.raises(KeyError):
        Kept(tmp_path / "v").encode(["not kept"])


def run_once(data_folder: Path, **setting: Any) -> dict[str, Any]:
    pytest.importorskip("tokenizers")
    pytest.importorskip("sklearn")
    from benchmarks.mixture_runs import Setting, Task, run

    return run(Task(data_folder, None, Setting(**setting), seed=0, steps=2, rate=1e-2, size=560))


@pytest.fixture(scope="module")
def uniform(data_folder: Path) -> dict[str, Any]:
    return run_once(data_folder, weights="uniform")


def test_scores_made_before_the_run_and_ahead_of_it_are_the_same(data_folder: Path, uniform: dict[str, Any]) -> None:
    from benchmarks import mixture_report
    from benchmarks.mixture_runs import Setting

    before = run_once(data_folder, weights="similarity")
    ahead = run_once(data_folder, weights="similarity", ahead=True)
    assert before["losses"] == ahead["losses"] != uniform["losses"]
    assert before["ess"] == pytest.approx(0.7, abs=0.01)
    assert before["auc"] > 0.9
    assert uniform["auc"] is None
    settings = {"uniform": Setting("uniform"), "similarity": Setting("similarity")}
    results = {(settings["uniform"], 0): uniform, (settings["similarity"], 0): before}
    rows = mixture_report.figures(settings, results, [0])
    assert [line[0] for line in mixture_report.tabulated(rows, 2, 1).rows] == list(settings)
    assert rows[0]["steps to uniform's"] == [2]


def test_steps_to_the_loss_of_uniform_at_its_best_rate() -> None:
    from dataclasses import asdict

    from benchmarks import mixture_report
    from benchmarks.mixture_runs import Setting

    curves = {"uniform": [5.0, 3.0, 2.0], mixture_report.BEST_RATE: [4.0, 2.0, 1.5], "similarity": [3.0, 1.5, 1.0]}
    about = {"target": 2.0, "sd": 0.1, "below uniform": 1, "seeds": 2, "steps to uniform's": [2, None], "rest": 2.0}
    about |= {"rest sd": 0.1, "ess": 0.6, "mean weight": 1.0, "auc": None, "curve steps": [1, 2, 3]}
    kinds = [Setting("uniform"), Setting("uniform", rate=2.0), Setting("similarity", ess=0.5)]
    rows = [
        {
            **about,
            "weights": name,
            "setting": asdict(kind),
            "curves": [{"report": curve}, {"report": [9.0, 9.0, curve[2]]}],
        }
        for (name, curve), kind in zip(curves.items(), kinds, strict=True)
    ]
    shown = mixture_report.tabulated(rows, 3, 2)
    assert [row[6] for row in shown.rows] == ["never", "3 each", "2, 3"]
    assert [row[5] for row in shown.rows] == ["2, never"] * 3
    assert [row[3] for row in shown.rows] == ["2.000", "1.500", "1.000"]
    assert shown.rows[2][-1] == "rate × 1, encoder=hashed, ess=0.5, score=mean"
    assert [row[5] for row in mixture_report.tabulated(rows[:1], 3, 2).rows] == ["2, never"]


@pytest.mark.parametrize(
    "setting",
    [
        {"weights": "similarity", "encoder": "oracle"},
        {"weights": "similarity", "encoder": "bm25"},
        {"weights": "product", "shuffled": True},
        {"weights": "adapt", "center": "running", "tau": 0.1},
        {"weights": "bm25"},
        {"weights": "oracle"},
    ],
)
def test_runs_on_the_standard_mixture(data_folder: Path, uniform: dict[str, Any], setting: dict[str, Any]) -> None:
    result = run_once(data_folder, **setting)
    assert result["losses"].keys() == {"report", "choose", *mixtures.REST}
    assert all(1.0 < loss < 7.0 for loss in result["losses"].values())
    assert result["losses"] != uniform["losses"]
    assert (result["ess"] < 1.0) == (setting["weights"] != "oracle")


@pytest.mark.parametrize("weights", ["similarity", "product", "bm25"])
def test_strategies_are_told_of_no_text_that_they_are_measured_on(data_folder: Path, weights: str) -> None:
    pytest.importorskip("tokenizers")
    from benchmarks.mixture_runs import Setting, Task, make_strategy, prepare
    from weighted_stream.demo.model import GPT, GPTConfig

    data = prepare(data_folder, 0, 560)
    strategy = make_strategy(Task(data_folder, None, Setting(weights), 0, 2, 1e-2), data, GPT(GPTConfig()))
    assert strategy.scoring is not None
    assert strategy.scoring.make().target.samples == data.mixture.target  # type: ignore[attr-defined]


def test_the_setting_with_the_lowest_loss_on_the_texts_to_choose_on() -> None:
    from benchmarks.mixture_runs import Setting
    from benchmarks.standard_mixture import choose

    grid = [Setting("similarity", ess=ess) for ess in (0.5, 0.6)]
    values = {(grid[0], 0): 3.0, (grid[0], 1): 3.3, (grid[1], 0): 3.1, (grid[1], 1): 3.1}
    results = {key: {"losses": {"choose": loss, "report": -loss}} for key, loss in values.items()}
    assert choose(grid, results, [0, 1]) == grid[1]
    assert choose(grid, results, [0]) == grid[0]


def test_rows_that_follow_from_others() -> None:
    from benchmarks.mixture_runs import Setting
    from benchmarks.standard_mixture import HASHED, RATES, RESAMPLED, base, derived, grids

    rows = derived({HASHED: Setting("similarity", ess=0.4)})
    assert {base(row) for row in rows} == {HASHED}
    assert {base(row) for row in derived(dict.fromkeys(grids(), Setting("uniform")))} < grids().keys()
    assert rows[f"{HASHED}, shuffled, its best rate"] == [
        Setting("similarity", ess=0.4, rate=rate, shuffled=True) for rate in RATES
    ]
    assert {row: base(row) for row in grids()} == {row: row for row in grids()}
    assert base(f"{RESAMPLED}, shuffled, its best rate") == RESAMPLED


def test_runs_of_earlier_results_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.harness import FOLDER, machine
    from benchmarks.mixture_runs import Setting
    from benchmarks.standard_mixture import kept_runs

    options = argparse.Namespace(steps=200, rate=0.01)
    monkeypatch.setenv(FOLDER, str(tmp_path))
    with pytest.raises(SystemExit, match="found no earlier results"):
        kept_runs(options)
    run = {"setting": vars(Setting("similarity", ess=0.4)), "seed": 3, "losses": {"choose": 3.0}}
    earlier = {"machine": machine(), "steps": 200, "rate": 0.01, "command": "c", "date": "d", "runs": [run]}
    (tmp_path / "standard_mixture.json").write_text(json.dumps(earlier))
    runs, said = kept_runs(options)
    assert runs == {(Setting("similarity", ess=0.4), 3): run}
    assert said["kept runs"]["number"] == 1
    with pytest.raises(SystemExit, match="the earlier steps was 200, here it is 100; leave it out"):
        kept_runs(argparse.Namespace(steps=100, rate=0.01))


def test_the_picture_of_the_standard_mixture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks import mixture_report

    curves = [{"report": [4.0, 3.0 + seed], mixtures.REST[0]: [4.0, 3.5]} for seed in (0, 1)]
    rows = [{"weights": name, "curve steps": [1, 2], "curves": curves} for name in mixture_report.SHOWN]
    mixture_report.draw({"rows": rows}, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
