"""Two ranks under Hugging Face's Trainer train as one process does; each goes on from the other's checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ranks import run_ranks_of_environment

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("datasets")

from weighted_stream import StateError


@pytest.mark.timeout(300)
def test_two_ranks_are_one_process(tmp_path: Path) -> None:
    import hf_ranks

    alone = str(tmp_path / "alone")
    trainer = hf_ranks.train(alone, accumulation=4)
    expected = hf_ranks.outcome(trainer)
    trainer.stream.close()
    run_ranks_of_environment(hf_ranks.one_rank, 2, 2, str(tmp_path), alone)
    fewer = hf_ranks.train(str(tmp_path), accumulation=4, resume=True)
    torch.save(hf_ranks.outcome(fewer), tmp_path / "fewer.pt")
    fewer.stream.close()
    for name in ("0", "1", "again0", "again1", "more0", "more1", "fewer"):
        found = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        for key, values in expected.items():
            torch.testing.assert_close(
                found[key], values, rtol=1e-4, atol=1e-5, equal_nan=True, msg=lambda m, k=key, n=name: f"{n} {k}: {m}"
            )
    with pytest.raises(StateError, match="as large a product"):
        hf_ranks.train(str(tmp_path), accumulation=3, resume=True)
