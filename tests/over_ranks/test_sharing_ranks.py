"""Several ranks, whose feedback all of them remember, are one trainer to those they share a store with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ranks import run_ranks
from shared_servers import SharedServer
from sharing_ranks import SAMPLES, one_rank

from weighted_stream import SharedStore


@pytest.mark.timeout(240)
def test_ranks_send_once_what_they_learn_together(tmp_path: Path) -> None:
    ids = np.arange(SAMPLES)
    with SharedServer(tmp_path / "server") as server:
        with SharedStore(server.url, every=0.02, name="ranks") as other:
            other.update(ids, loss=np.full(SAMPLES, 50.0), similarity=ids / 7, step=0)
        for life in range(2):  # the second begins with what the first has sent
            folder = tmp_path / f"{life}"
            folder.mkdir()
            for rank in range(2):
                if life:
                    (tmp_path / f"0/store-{rank}").rename(folder / f"store-{rank}")
            run_ranks(one_rank, 2, folder, 2, server.url, str(folder))
            found = [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]
            for name, values in found[0].items():
                torch.testing.assert_close(values, found[1][name], rtol=0, atol=0, equal_nan=True)
            assert found[0]["visits"].tolist() == [2 * life + 2] * SAMPLES  # theirs alone
            np.testing.assert_array_equal(found[0]["similarity"], np.float32(ids / 7))
        with SharedStore(server.url, every=0.02, name="ranks") as other:
            while (visits := other.get(ids)["visits"]).sum() < 5 * SAMPLES:
                pass
            assert visits.tolist() == [5] * SAMPLES
