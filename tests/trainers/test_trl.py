"""WeightedTrainerMixin in TRL's SFTTrainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytest.importorskip("trl")

from small_trl import language_model, logged, parameters, quiet, running, sft

from weighted_stream import LinUpper, LossError, Uniform, WindowError

pytestmark = quiet

PADDING_FREE = {"padding_free": True, "max_length": None}


@pytest.mark.parametrize("more", [{}, PADDING_FREE], ids=["padded", "padding-free"])
def test_uniform_weights_equal_training_without_us(tmp_path: Path, more: dict[str, Any]) -> None:
    made, without = sft(tmp_path, Uniform(), **more), sft(tmp_path, None, **more)
    made.train()
    without.train()
    torch.testing.assert_close(parameters(made), parameters(without), atol=1e-6, rtol=0)
    np.testing.assert_allclose(logged(made), logged(without), atol=1e-4)
    assert made.stream.stats()["step"] == 10


def test_weights_equal_those_of_a_plain_loop(tmp_path: Path) -> None:
    from weighted_stream import WeightedStream

    made = sft(tmp_path, running())
    made.train()
    rows = [torch.tensor(row) for row in made.train_dataset["input_ids"]]
    stream, model = WeightedStream(rows, running()), language_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    losses = []
    for step in made.diary:
        ids = [number for part in step for number in part]
        token = [
            F.cross_entropy(model(rows[number][None]).logits[0, :-1], rows[number][1:], reduction="none")
            for number in ids
        ]
        weight = stream.weight(ids)
        mean = torch.stack([values.mean() for values in token])
        counts = torch.tensor([len(values) for values in token])
        parts = [part * w for part, w in zip(mean.split(2), weight.split(2), strict=True)]
        # For a GPT2LMHeadModel the Trainer counts each sample's first token, too.
        total = (torch.cat(parts) * counts).sum() / (counts + 1).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(total.item())
    expected = nn.utils.parameters_to_vector(model.parameters()).detach()
    torch.testing.assert_close(parameters(made), expected, atol=1e-4, rtol=0)
    np.testing.assert_allclose(logged(made), losses, atol=1e-3)


def test_padding_free_batches_have_a_weight_for_each_sample(tmp_path: Path) -> None:
    one_step = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "max_steps": 1}
    padded, flat = sft(tmp_path, LinUpper(), **one_step), sft(tmp_path, LinUpper(), **one_step, **PADDING_FREE)
    padded.train()
    flat.train()
    assert padded.diary == flat.diary
    ((ids,),) = flat.diary
    one, other = padded.stream.store.get(ids), flat.stream.store.get(ids)
    assert one["weight"].std() > 0.05
    np.testing.assert_allclose(one["last_loss"], other["last_loss"], atol=1e-5)
    np.testing.assert_allclose(one["weight"], other["weight"], atol=1e-4)


def test_a_joint_strategy(tmp_path: Path) -> None:
    with pytest.raises(WindowError, match="extra_forward=True"):
        sft(tmp_path, LinUpper()).train()
    made = sft(tmp_path, LinUpper(), extra_forward=True)
    whole = sft(tmp_path, LinUpper(), per_device_train_batch_size=8, gradient_accumulation_steps=1)
    made.train()
    whole.train()
    torch.testing.assert_close(parameters(made), parameters(whole), atol=1e-5, rtol=0)
    assert logged(made, "num_tokens") == logged(whole, "num_tokens")


def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    more: dict[str, Any] = {"max_steps": 14, "save_strategy": "steps", "save_steps": 4}
    whole = sft(tmp_path, running(), **more)
    whole.train()
    again = sft(tmp_path, running(), **more)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert torch.equal(parameters(again), parameters(whole))
    assert again.stream.stats() == whole.stream.stats()


def test_other_losses_of_sft_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LossError, match="loss_type"):
        sft(tmp_path, Uniform(), loss_type="dft")
    with pytest.raises(LossError, match="losses"):
        sft(tmp_path, Uniform(), losses=print)
    with pytest.raises(LossError, match="chunk_size"):
        sft(tmp_path, Uniform(), chunk_size=64)
