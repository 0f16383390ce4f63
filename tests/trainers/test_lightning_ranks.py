"""Two ranks under Lightning train as one process does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ranks import run_ranks_of_environment

pytest.importorskip("lightning")

pytestmark = [
    pytest.mark.filterwarnings("ignore:A weight of:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # of Lightning: few workers, no logger
    # Lightning asks torch 2.15 in a way that it will lose.
    pytest.mark.filterwarnings("ignore:.*isinstance.*LeafSpec:FutureWarning:lightning.pytorch.utilities._pytree"),
]


@pytest.mark.timeout(240)
def test_two_ranks_are_one_process(tmp_path: Path) -> None:
    import lightning_ranks

    run_ranks_of_environment(lightning_ranks.one_rank, 2, 2, str(tmp_path))
    expected, stream = lightning_ranks.fit(str(tmp_path / "alone"))
    stream.close()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for key, values in expected.items():
            torch.testing.assert_close(found[key], values, rtol=1e-4, atol=1e-5, equal_nan=True)
