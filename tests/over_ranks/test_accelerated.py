"""accelerate shares out batches by index or from its first rank: their ids arrive, and two ranks are one process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ranks import run_ranks_of_environment

pytest.importorskip("accelerate")

pytestmark = [
    pytest.mark.filterwarnings("ignore:A weight of:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:accelerate"),
    pytest.mark.filterwarnings("ignore::FutureWarning:accelerate"),
]


@pytest.mark.timeout(300)
def test_two_ranks_are_one_process(tmp_path: Path) -> None:
    from accelerated import WAYS, one_rank, train

    run_ranks_of_environment(one_rank, 2, 2, str(tmp_path))
    for at, way in enumerate(WAYS):
        for ordered in (False, True):
            expected = train(way, ordered)
            for rank in range(2):
                found = torch.load(tmp_path / f"{at}{ordered}{rank}.pt", weights_only=True)
                for key, values in expected.items():
                    torch.testing.assert_close(
                        found[key], values, rtol=1e-4, atol=1e-5, equal_nan=True, msg=f"{way}, {ordered}, {key}"
                    )
