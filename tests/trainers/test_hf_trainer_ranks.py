"""Two ranks under Hugging Face's Trainer train as one process does, and go on from their checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ranks import run_ranks_of_environment

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("datasets")


@pytest.mark.timeout(240)
def test_two_ranks_are_one_process(tmp_path: Path) -> None:
    import hf_ranks

    run_ranks_of_environment(hf_ranks.one_rank, 2, 2, str(tmp_path))
    alone = hf_ranks.train(str(tmp_path / "alone"), accumulation=4)
    expected = hf_ranks.outcome(alone)
    for name in ("0", "1", "again0", "again1"):
        found = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        for key, values in expected.items():
            torch.testing.assert_close(
                found[key], values, rtol=1e-4, atol=1e-5, equal_nan=True, msg=lambda m, k=key: f"{k}: {m}"
            )
