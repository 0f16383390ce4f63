"""Several ranks weigh as one process would whose batches are theirs together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from global_batches import STRATEGIES, batches_of, in_one_process, one_rank, together, use_it
from ranks import run_ranks


def equal(found: Any, expected: Any) -> None:
    """The same numbers, to 1e-6."""
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6, equal_nan=True)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            equal(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            equal(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-6)
    else:
        assert found == expected


@pytest.mark.filterwarnings("ignore:A weight of:RuntimeWarning")
@pytest.mark.parametrize(("ranks", "shared"), [(2, True), (2, False), (4, True)])
@pytest.mark.timeout(240)
def test_ranks_weigh_as_one_process_does(ranks: int, shared: bool, tmp_path: Path) -> None:
    epochs = 3
    names = list(STRATEGIES) if ranks == 2 else ["LinUpper", "LinUpper running", "InfoBatch", "OnlineDataMixing"]
    run_ranks(one_rank, ranks, tmp_path, ranks, names, epochs, str(tmp_path), shared)
    compare(names, ranks, epochs, tmp_path)


@pytest.mark.filterwarnings("ignore:A weight of:RuntimeWarning")
def test_nothing_goes_over_the_trainers_own_backend(tmp_path: Path) -> None:
    """It may be NCCL, which knows no tensors on the host; here it is one that fails whoever uses it."""
    names = ["LinUpper", "LinUpper running", "InfoBatch", "OnlineDataMixing", "Similarity"]
    run_ranks(one_rank, 2, tmp_path, 2, names, 2, str(tmp_path), True, backend="out_of_reach")
    compare(names, 2, 2, tmp_path)


def test_a_backend_that_is_out_of_reach_fails(tmp_path: Path) -> None:
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match="No backend type"):
        run_ranks(use_it, 1, tmp_path, backend="out_of_reach")


def compare(names: list[str], ranks: int, epochs: int, folder: Path) -> None:
    """What the ranks left behind, with one process."""
    for name in names:
        weights, records, learned = in_one_process(name, ranks, epochs)
        for rank in range(ranks):
            found = torch.load(folder / f"{name}.{rank}.pt", weights_only=True)
            for epoch in range(epochs):
                starts = [[len(b) for b in batches_of(r, ranks, epoch)] for r in range(ranks)]
                mine = []
                for n, size in enumerate(starts[rank]):
                    before = sum(sizes[n] for sizes in starts[:rank] if n < len(sizes))
                    mine.append(weights[epoch][n][before : before + size])
                equal(found["weights"][epoch], mine)
            equal(found["records"], {key: torch.from_numpy(value) for key, value in records.items()})
            equal(found["learned"], learned)
            assert found["step"] == epochs * len(together(ranks, 0))
