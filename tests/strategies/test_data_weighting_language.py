"""DataWeightingModel and MetaWeightNet on language models: padding, dict batches, tied heads."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from torch import Tensor

from weighted_stream import DataWeightingModel, MetaWeightNet, WeightedStream

pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning"),
]
models = pytest.mark.parametrize("make", tiny_models.MODELS.values(), ids=tiny_models.MODELS)


def batch(size: int, seed: int) -> dict[str, Tensor]:
    inputs = tiny_models.batch(size, "left" if seed % 2 else "right", seed)
    return {**inputs, "labels": inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)}


def rows(size: int, seed: int) -> list[dict[str, Tensor]]:
    whole = batch(size, seed)
    return [{key: values[i] for key, values in whole.items()} for i in range(size)]


@models
def test_dict_batches_and_the_standard_losses(make) -> None:
    """As a framework has it: ids in the batch, checkpointing, compiled, losses of the training under autocast."""
    torch._dynamo.reset()
    model = make(layers=1)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    target = [batch(4, 90), batch(4, 91)]
    strategy = DataWeightingModel(model, target, optimizer, anchors=8, lr=0.05)
    compiled = torch.compile(model, backend="eager")
    stream = WeightedStream(rows(24, 1), strategy, as_dict=True)
    for inputs in stream.loader(batch_size=8):
        weight = stream.weight(inputs.pop("sample_id"))
        inputs.pop("labels")
        with torch.autocast("cpu", torch.bfloat16):
            losses = tiny_models.losses(compiled, inputs)
        (losses * weight).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert strategy.updates_made == 3
    assert weight.tensor().std() > 0.01
    assert model.training


@models
def test_samples_that_do_not_belong_come_to_weigh_less(make) -> None:
    """Half of the rows count upwards, as the target does; the others are random. MetaWeightNet sees it by the loss."""

    def counting(size: int, seed: int) -> Tensor:
        start = torch.randint(1, 40, (size, 1), generator=torch.Generator().manual_seed(seed))
        return start + torch.arange(tiny_models.TOKENS)

    noise = torch.randint(1, 50, (480, tiny_models.TOKENS), generator=torch.Generator().manual_seed(1))
    data = torch.where(torch.arange(480)[:, None] % 2 == 0, counting(480, 2), noise)
    target = [{"input_ids": x, "labels": x} for x in counting(32, 3).split(16)]
    for method in DataWeightingModel, MetaWeightNet:
        model = make(layers=1)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        options = {"anchors": 16, "lr": 3e-3} if method is DataWeightingModel else {"lr": 3e-3}
        strategy = method(model, target, optimizer, **options)
        shares = []
        stream = WeightedStream([{"input_ids": x, "labels": x} for x in data], strategy)
        for inputs, weight in stream.loader(batch_size=16, shuffle=True):
            labels = {"input_ids": inputs["input_ids"], "attention_mask": torch.ones_like(inputs["input_ids"])}
            losses = tiny_models.losses(model, labels)
            optimizer.zero_grad()
            (losses * weight).mean().backward()
            optimizer.step()
            shares.append(weight.tensor()[weight.ids % 2 == 1].sum().item() / 16)
        assert sum(shares[-8:]) / 8 < 0.35, (method, shares)
