"""HiddenStateProbe beside DistributedDataParallel, in two processes (that import little: this file is small)."""

from __future__ import annotations

from pathlib import Path

import tiny_models
import torch
from ranks import run_ranks
from torch import nn

from weighted_stream.probes.hidden_states import HiddenStateProbe


def probe_both(rank: int) -> None:
    """The wrapped model and the bare one inside it give the same states."""
    torch.manual_seed(0)
    model, inputs = tiny_models.gpt2(), tiny_models.batch(4)
    wrapped = nn.parallel.DistributedDataParallel(model)
    for given in model, wrapped:
        with HiddenStateProbe(given) as probe:
            tiny_models.losses(wrapped, inputs).mean().backward()
            torch.testing.assert_close(probe.take(4), tiny_models.phi(model, inputs), atol=1e-6, rtol=0)


def test_inside_distributed_data_parallel(tmp_path: Path) -> None:
    run_ranks(probe_both, 2, tmp_path)
