"""The benchmarks of the methods that look at the model: what they count, compare and print."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("tokenizers")
pytest.importorskip("sklearn")

from small_mixture import write_small_mixture

from benchmarks import digits_runs, method_cost, method_cost_runs, noisy_labels, selection, selection_runs
from benchmarks.harness import FOLDER, Spread
from benchmarks.selection import Row
from benchmarks.selection_runs import Setting, Task, equal_steps, passes
from weighted_stream import Candidates, WeightStore
from weighted_stream.demo.corpus import Corpus
from weighted_stream.demo.model import Block, GPTConfig
from weighted_stream.demo.texts import Sample

FTW = Setting("ftw", 0.05)
SETTINGS = [
    Setting("random"),
    Setting("full", 0.25),
    Setting("top-loss", 0.25),
    Setting("greats", 0.25),
    Setting("greats", 0.25, eta="fit"),
    Setting("ftw", 0.25),
    Setting("ftw", 0.25, "head"),
]


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_mixture(tmp_path_factory.mktemp("data"))


def test_passes_of_a_step() -> None:
    # Candidates: 320, 160, 64; the target's 128 examples last 8 steps; 32 tokens each.
    assert passes(Setting("random")) == 32 * 3 * 16
    assert passes(Setting("full", 0.1)) == 32 * 3 * 160
    assert passes(Setting("top-loss", 0.25)) == 32 * (48 + 64)
    assert passes(FTW) == 32 * (48 + 2 * (320 + 16))
    assert passes(Setting("ftw", 0.05, "head")) == 32 * (48 + 320 + 16)


def test_as_much_compute_is_more_steps_of_what_is_cheaper() -> None:
    allowed = 100 * passes(FTW)
    assert equal_steps(Setting("random"), allowed) == 1500
    assert equal_steps(Setting("full", 0.05), allowed) == 75
    assert equal_steps(FTW, allowed) == 100
    assert equal_steps(Setting("full", 0.05), 1.0) == 1


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: f"{setting.method} {setting.layers} {setting.eta}")
def test_a_run_makes_the_passes_that_it_is_said_to(data_folder: Path, setting: Setting) -> None:
    steps = selection_runs.REFRESH  # the target's gradient is made once
    result = selection_runs.run(Task(data_folder, setting, seed=0, steps=steps, size=560))
    assert result["passes"] == steps * passes(setting)
    assert result["in the stream"] == pytest.approx(0.125, abs=0.01)
    assert len(result["chosen"]) == len(result["weight"]) == 4
    assert result["losses"].keys() > {"report", "choose"}
    assert all(1.0 < loss < 7.0 for loss in result["losses"].values())
    if setting.method in ("random", "full", "top-loss"):
        assert result["chosen"] == pytest.approx(result["weight"])
        assert result["ess"] == pytest.approx(1.0)
    else:
        # The target has words that no other kind of text has.
        assert np.mean(result["chosen"]) > 0.2
        assert (result["weight"] != result["chosen"]) == (setting.method == "ftw")


def test_the_largest_losses_are_chosen() -> None:
    losses = torch.tensor([1.0, 5.0, 3.0, 4.0])
    strategy = selection_runs.TopLoss(torch.nn.Linear(1, 1), lambda model, batch: losses[batch], budget=0.5)
    candidates = Candidates(np.arange(4), torch.arange(4), 2, 0, WeightStore().get)
    choice = strategy.choose(candidates)
    assert choice.places.tolist() == [1, 3]
    assert choice.weights.tolist() == [1.0, 1.0]


def test_text_of_packages_stands_in_for_the_data_sets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kinds = ["reference" if i % 4 == 0 else "readme" for i in range(80)]
    train = [Sample(f"text number {i} of a stream", kind, "p") for i, kind in enumerate(kinds)]
    target = [Sample(f"reference {i}", "reference", "p") for i in range(5)]
    corpus = Corpus(train, target, [Sample("something else", "readme", "p")], target[:3])
    monkeypatch.setattr(selection_runs, "installed_corpus", lambda seed, size, examples: corpus)
    data = selection_runs.prepare.__wrapped__(tmp_path, 0, 80)
    assert data.wanted.tolist() == [kind == "reference" for kind in kinds]
    assert [len(rows) for rows in (data.rows, data.target, data.held_out["choose"], data.held_out["report"])] == [
        80,
        3,
        2,
        3,
    ]


def rows_at(label: str, budgets: list[float]) -> list[Row]:
    return selection.rows_of(budgets, 100, [label])


def test_rows_of_equal_steps_and_of_equal_compute() -> None:
    for row in selection.rows_of([0.05, 0.25], 100, selection.METHODS):
        if row.equal == "steps" or row.label == selection.COSTLIEST:
            assert row.steps == 100
        allowed = 100 * passes(Setting("ftw", row.budget))
        if row.equal == "compute":
            assert row.steps * passes(row.setting) == pytest.approx(allowed, abs=passes(row.setting) / 2)
    one, other = (row.setting for row in rows_at("random", [0.05, 0.25]) if row.equal == "steps")
    assert one == other  # the same runs stand in every table


def results_with(losses: dict[tuple[str, float], dict[float, float]]) -> selection.Results:
    """Runs of equal steps, of seed 1000: (method, budget) -> rate -> loss to choose on."""
    return {
        (Setting(method, budget, rate=rate), 100, 1000): {"losses": {"choose": loss, "report": -loss}}  # type: ignore[arg-type]
        for (method, budget), by_rate in losses.items()
        for rate, loss in by_rate.items()
    }


def test_rates_are_chosen_on_other_texts_than_those_reported() -> None:
    low, middle, *more = selection.RATES
    assert {(s.rate, s.eta) for s in rows_at("GREATS", [0.1])[0].grid()} == {
        (rate, eta) for rate in selection.RATES for eta in ("rate", "fit")
    }
    tried = {low: 3.0, middle: 2.0} | dict.fromkeys(more, 4.0)
    results = results_with({("ftw", 0.1): tried, ("random", 1.0): {**tried, low: 1.0}})
    ours, random = rows_at("Filter-then-Weight", [0.05])[0], rows_at("random", [0.05])[0]
    assert selection.tuned(ours, results, [1000]) == Setting("ftw", 0.05, rate=middle)
    assert selection.tuned(random, results, [1000]) == Setting("random", rate=low)


def measured(method: str, report: list[float], budget: float = 1.0) -> list[dict[str, Any]]:
    setting = {"method": method, "budget": budget, "layers": "all", "rate": 0.01}
    same = {"chosen": [0.5, 0.3], "weight": [0.6, 0.4], "ess": 0.9, "passes": 2e6, "seconds": 1.0, "fallbacks": 0}
    losses = [{"report": loss, "choose": 9.0, "a": 4.0, "b": 5.0} for loss in report]
    return [{"setting": setting, "seed": seed, "steps": 10, "losses": loss, **same} for seed, loss in enumerate(losses)]


def test_tables_compare_with_random_seed_by_seed() -> None:
    ours, random = rows_at("Filter-then-Weight", [0.05])[0], rows_at("random", [0.05])[0]
    figures = [
        selection.figure(random, measured("random", [4.0, 3.0])),
        selection.figure(ours, measured("ftw", [3.5, 3.1], 0.05)),
    ]
    selection.compare(figures)
    (equal_steps, empty) = selection.tables_of(figures)
    assert (equal_steps.title, empty.rows) == ("Budget 5%, equal steps", [])
    lines = [line.split("  ") for line in str(equal_steps).splitlines()]
    cells = {line[0]: [cell.strip() for cell in line if cell.strip()] for line in lines}
    assert cells["Filter-then-Weight"][1:] == (
        ["100", "0.01", "3.3", "0.2828", "1 of 2", "4.5", "0", "0.4", "0.5", "0.9", "2", "1"]
    )
    assert cells["random"][3:5] == ["3.5", "0.7071"]


def test_kept_runs_are_not_made_again(tmp_path: Path) -> None:
    result = measured("ftw", [3.5], 0.05)[0]
    (tmp_path / "runs").write_text(json.dumps(result) + "\n")
    assert selection.kept(tmp_path / "runs") == {(Setting("ftw", 0.05), 10, 0): result}
    assert selection.kept(tmp_path / "none") == {}
    assert selection.kept(None) == {}


SHORT = ["uniform", "RhoLoss", "GREATS", "Filter-then-Weight", "Meta-Weight-Net", "DWM", "oracle: no label drawn"]


@pytest.fixture(scope="module")
def digit_rows() -> dict[str, dict[str, Any]]:
    methods = {name: digits_runs.METHODS[name] for name in SHORT}
    return {
        name: noisy_labels.figures_of([digits_runs.run(method, method.grid[0], 0, 60)])
        for name, method in methods.items()
    }


def test_the_share_of_weight_on_labels_drawn_at_random(digit_rows: dict[str, dict[str, Any]]) -> None:
    shares = {name: row["share at first"].median for name, row in digit_rows.items() if row["share at first"]}
    assert shares.keys() == digit_rows.keys() - {"oracle: no label drawn"}
    assert shares["uniform"] == pytest.approx(0.4, abs=0.05)
    assert all(shares[name] < 0.3 for name in ("RhoLoss", "GREATS", "Filter-then-Weight"))
    assert shares["DWM"] < shares["uniform"]
    assert {len(row["runs"][0]["shares"]) for name, row in digit_rows.items() if name in shares} == {2}
    assert all(0.3 < row["end"].median <= 1 for row in digit_rows.values())


def test_the_table_and_picture_of_shares(digit_rows: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert [line[0] for line in noisy_labels.as_table(digit_rows).rows] == list(digit_rows)
    noisy_labels.draw(digit_rows, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_rows_are_compared_with_uniform_training_of_the_same_model() -> None:
    rows = {
        name: {"runs": [{"end": end, "seconds": 1.0} for end in ends]}
        for name, ends in {
            "uniform": [0.5, 0.6],
            "DWM": [0.6, 0.6],
            "twice the width: uniform": [0.7, 0.5],
            "twice the width: DWM learned there": [0.6, 0.4],
        }.items()
    }
    against = [noisy_labels.against(noisy_labels.base_of(rows, name), row) for name, row in rows.items()]
    assert [above for _, above in against] == ["", "1 of 2", "", "0 of 2"]
    assert [more and more.median for more, _ in against] == [None, pytest.approx(0.05), None, pytest.approx(-0.1)]


def test_options_are_chosen_on_rows_to_pick_on(monkeypatch: pytest.MonkeyPatch) -> None:
    method = digits_runs.Method(digits_runs.uniform, grid=({"lr": 1}, {"lr": 2}))
    picks = {(1, 5): 0.9, (1, 6): 0.5, (2, 5): 0.8, (2, 6): 0.8}
    monkeypatch.setattr(
        noisy_labels,
        "run",
        lambda method, options, seed, steps: {"pick": picks[options["lr"], seed], "end": -picks[options["lr"], seed]},
    )
    assert noisy_labels.chosen(method, 10, seeds=[5, 6]) == {"lr": 2}
    assert noisy_labels.chosen(method, 10, seeds=[5]) == {"lr": 1}


def test_a_weighting_model_goes_over_to_a_wider_model() -> None:
    method = digits_runs.METHODS["twice the width: DWM of the narrow model, frozen"]
    made: list[Any] = []

    def make(begun: digits_runs.Beginning, **options: Any) -> Any:
        made.append((begun.model, method.make(begun, **options)))
        return made[0][1]

    result = digits_runs.run(dataclasses.replace(method, make=make), {"always": True, "lr": 3e-3}, 0, 50)
    model, strategy = made[0]
    assert model[0].out_features == 2 * digits_runs.WIDTH
    assert strategy.frozen
    assert strategy.updates_made == 0
    assert abs(result["shares"][0] - 0.4) > 0.02  # it weighs from the first step on


def test_clean_rows_are_in_one_set_only() -> None:
    data = digits_runs.Data.of(0)
    sets = [data.train[0], data.told[0], data.pick[0], data.test[0]]
    assert [len(rows) for rows in sets] == [1197, 100, 100, 400]
    rows = {name: len(method.rows(data)[0]) for name, method in digits_runs.METHODS.items() if method.rows}
    assert rows == {
        "uniform, the clean rows added": 1297,
        "the 100 clean rows alone": 100,
        "oracle: no label drawn": int((~data.drawn).sum()),
    }


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    config = GPTConfig(vocab=32, context=8, layers=1, width=16, heads=2)
    monkeypatch.setitem(method_cost_runs.SIZES["cpu"], "tiny", config)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("name", method_cost_runs.METHODS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_every_method_makes_steps(name: str) -> None:
    setup = method_cost_runs.Setup.of(method_cost_runs.SIZES["cpu"]["tiny"], "cpu")
    before = [p.detach().clone() for p in setup.model.parameters()]
    step = method_cost_runs.METHODS[name](setup)
    for _ in range(method_cost_runs.REFRESH + 1):
        step()
    moved = any(not torch.equal(a, b) for a, b in zip(before, setup.model.parameters(), strict=True))
    assert moved == (not name.startswith("probe"))


@pytest.mark.usefixtures("tiny")
def test_a_row_of_the_costs() -> None:
    name = "probe alone, all linear"
    ours, theirs, ratio = method_cost.time_against_plain(name, "tiny", "cpu", repeats=1)
    assert ratio.median == pytest.approx(ours.median / theirs.median)
    assert method_cost.peak_here(method_cost.PLAIN, "tiny", "cpu", 1) >= 0
    reason = method_cost.why(name, "tiny", "cpu", repeats=1)
    assert reason["parts"].keys() == {"forward", "forward and backward"}
    shares = [share for _, share in reason["longest"]]
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 1
    assert "of a plain step" in method_cost.explained(reason)
    row = {"method": name, "ms": ours, "plain ms": theirs, "time ratio": Spread(1.2, 1.1, 1.3)}
    row |= {"wanted": 1.5, "MiB": 10.0, "memory ratio": 2.0}
    shown = str(method_cost.tabulated("tiny", {"parameters": 10**6, "rows": [row]}, "said")).splitlines()
    assert shown[3].split("  ")[-1] == "2"
    assert "1.2 (1.1–1.3)" in shown[3]
    assert "≤ 1.5" in shown[3]
    assert shown[-1] == "said"


@pytest.mark.usefixtures("tiny")
def test_a_row_that_fails_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(setup: method_cost_runs.Setup) -> method_cost_runs.Step:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setitem(method_cost_runs.METHODS, "Dear", fails)
    monkeypatch.setattr(method_cost, "peak_memory", lambda *how: 1.0)
    monkeypatch.setenv(FOLDER, str(tmp_path))
    arguments = ["--sizes", "tiny", "--repeats", "1", "--only", "Uniform", "--only", "Dear"]
    with pytest.raises(SystemExit, match=r"rows failed: \{'tiny': \['Dear'\]\}"):
        method_cost.main(arguments)
    kept = json.loads((tmp_path / "method_cost_tiny.json").read_text())
    assert [row["method"] for row in kept["sizes"]["tiny"]["rows"]] == ["Uniform"]
    assert kept["sizes"]["tiny"]["failed"] == {"Dear": "OutOfMemoryError('no room')"}


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("name", method_cost_runs.IN_PARTS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_step_in_parts_is_the_step(name: str) -> None:
    steps = {}
    for parts in (1, 4):
        torch.manual_seed(0)
        setup = method_cost.setup_of("tiny", "cpu", 8, parts)
        step = method_cost_runs.METHODS[name](setup)
        step()
        steps[parts] = torch.cat([p.detach().flatten() for p in setup.model.parameters()])
    torch.testing.assert_close(steps[1], steps[4], rtol=0, atol=1e-5)


def test_bounds_and_parts_are_of_methods_that_are_measured() -> None:
    assert method_cost_runs.BOUNDS.keys() <= method_cost_runs.METHODS.keys()
    assert method_cost_runs.PARTS.keys() <= method_cost_runs.BOUNDS.keys()
    assert method_cost_runs.STEPS.keys() <= method_cost_runs.METHODS.keys()
    assert {
        *method_cost_runs.IN_PARTS,
        *method_cost_runs.WITHIN_A_HUNDREDTH,
        *method_cost.QUICK,
    } <= method_cost_runs.METHODS.keys()


@pytest.mark.parametrize("size", ["1M", "30M", "124M", "350M"])
def test_sizes_are_what_they_are_called(size: str) -> None:
    config = method_cost_runs.SIZES["cuda"][size]
    with torch.device("meta"):
        parameters = sum(p.numel() for p in Block(config).parameters()) * config.layers
    # Beside the blocks, tokens and head.
    assert parameters + 2 * config.vocab * config.width == pytest.approx(float(size.rstrip("M")) * 1e6, rel=0.1)
