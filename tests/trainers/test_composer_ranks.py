"""Two ranks under Composer train as one process does, and go on from rank 0's checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ranks import run_ranks_of_environment

pytest.importorskip("composer")


@pytest.mark.filterwarnings("ignore")  # Composer's own
@pytest.mark.timeout(240)
def test_two_ranks_are_one_process(tmp_path: Path) -> None:
    import composer_ranks

    run_ranks_of_environment(composer_ranks.one_rank, 2, 2, str(tmp_path))
    expected = composer_ranks.fit(str(tmp_path / "alone"))
    for name in ("0", "1", "again0", "again1"):
        found = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        for key, values in expected.items():
            torch.testing.assert_close(found[key], values, rtol=1e-4, atol=1e-5, equal_nan=True, msg=f"{name} {key}")
