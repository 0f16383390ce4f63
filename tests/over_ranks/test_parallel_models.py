"""DistributedDataParallel and FSDP2, with accumulation and no_sync, train as one process does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from packaging.version import Version
from parallel_models import SAMPLES, fresh_model, one_rank, rows_of, train
from ranks import run_ranks


@pytest.mark.filterwarnings("ignore:A weight of:RuntimeWarning")
@pytest.mark.parametrize(
    "how",
    [
        "ddp",
        pytest.param(
            "fsdp2",
            marks=pytest.mark.skipif(
                Version(torch.__version__) < Version("2.8"),
                reason="FSDP2 by itself makes wrong gradients without a GPU (torch 2.7), or none (2.6)",
            ),
        ),
    ],
)
def test_ranks_train_as_one_process_does(how: str, tmp_path: Path) -> None:
    run_ranks(one_rank, 2, tmp_path, 2, how, str(tmp_path))
    model = fresh_model()
    weights, stream = train(model, rows_of(0, 1))
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        mine = [step[4 * rank : 4 * rank + 4] for step in weights]
        torch.testing.assert_close(torch.tensor(found["weights"]), torch.tensor(mine), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found["parameters"], [p.detach() for p in model.parameters()], rtol=1e-4, atol=1e-5)
        loss = torch.from_numpy(stream.store.get(range(SAMPLES))["loss"])
        torch.testing.assert_close(found["loss"], loss, rtol=1e-4, atol=1e-5)
