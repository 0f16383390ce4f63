"""Two ranks under Composer train as one process does, and each goes on from the other's checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ranks import run_ranks_of_environment

pytest.importorskip("composer")

from weighted_stream import StateError


@pytest.mark.filterwarnings("ignore")  # Composer's own
@pytest.mark.timeout(300)
def test_two_ranks_are_one_process(tmp_path: Path) -> None:
    import composer_ranks

    alone = str(tmp_path / "alone")
    expected = composer_ranks.fit(alone)
    run_ranks_of_environment(composer_ranks.one_rank, 2, 2, str(tmp_path), alone)
    saved = composer_ranks.checkpoint(str(tmp_path))
    torch.save(composer_ranks.fit(str(tmp_path), load=saved), tmp_path / "fewer.pt")
    for name in ("0", "1", "again0", "again1", "more0", "more1", "fewer"):
        found = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        for key, values in expected.items():
            torch.testing.assert_close(found[key], values, rtol=1e-4, atol=1e-5, equal_nan=True, msg=f"{name} {key}")
    with pytest.raises(StateError, match="as many samples"):
        composer_ranks.fit(str(tmp_path), load=saved, size=4)
