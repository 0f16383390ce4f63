"""What pages of documentation take for granted: a dataset, a model, files. A page names the scenes that it needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from weighted_stream import per_sample_cross_entropy

KINDS = {
    "maths": "Anna has {0} apples and buys {1} more. How many apples does she have? {0} plus {1} is {2}.",
    "weather": "Rain is likely on Monday with {0} degrees in the north and {1} degrees in the south.",
    "cooking": "Stir {0} grams of flour into the butter and let the dough rest for {1} minutes.",
}


def texts(folder: Path) -> dict[str, Any]:
    """``data.jsonl`` of three kinds, ``target.jsonl`` of one of them, and the ``dataset`` as a list."""
    rows = [
        {"id": number, "text": KINDS[kind].format(number, number + 3, 2 * number + 3), "kind": kind}
        for number, kind in enumerate(list(KINDS) * 40)
    ]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    target = [{"text": KINDS["maths"].format(n, 2 * n, 3 * n)} for n in range(500, 540)]
    (folder / "target.jsonl").write_text("".join(json.dumps(row) + "\n" for row in target))
    return {"dataset": rows}


def tokens(folder: Path) -> dict[str, Any]:
    """``dataset``: sequences of eight tokens; a ``model`` of them and its ``optimizer``; ``per_sample_loss``."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randint(0, 20, (256, 1), generator=generator)
    rows = (start + torch.arange(8)) % 20
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(20, 16), nn.Linear(16, 20))

    def per_sample_loss(logits: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
        return per_sample_cross_entropy(logits[:, :-1], batch[:, 1:])

    def loss_fn(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return per_sample_loss(model(batch), batch)

    return {
        "dataset": rows,
        "model": model,
        "optimizer": torch.optim.AdamW(model.parameters(), lr=1e-2),
        "per_sample_loss": per_sample_loss,
        "loss_fn": loss_fn,
    }
