"""Two ranks under Lightning train as one process does, and each goes on from the other's checkpoint."""

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


@pytest.mark.timeout(300)
def test_two_ranks_are_one_process(tmp_path: Path) -> None:
    import lightning_ranks

    alone = str(tmp_path / "alone")
    expected, stream = lightning_ranks.fit(alone)
    stream.close()
    run_ranks_of_environment(lightning_ranks.one_rank, 2, 2, str(tmp_path), alone)
    found, stream = lightning_ranks.fit(str(tmp_path), resume=str(tmp_path / "step=6.ckpt"))
    torch.save(found, tmp_path / "fewer.pt")
    stream.close()
    for name in ("whole0", "whole1", "again0", "again1", "more0", "more1", "fewer"):
        found = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        for key, values in expected.items():
            torch.testing.assert_close(
                found[key], values, rtol=1e-4, atol=1e-5, equal_nan=True, msg=lambda m, k=key, n=name: f"{n} {k}: {m}"
            )
