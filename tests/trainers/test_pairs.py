"""WeightedTrainerMixin in TRL's DPOTrainer: a pair of answers is a sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("trl")

from small_trl import WeightedDPO, dpo, language_model, logged, parameters, quiet, running
from trl import DPOTrainer

from weighted_stream import LinUpper, LossError, Uniform, WindowError

pytestmark = quiet

SHORT: dict[str, Any] = {"max_steps": 3}
KINDS = {
    "sigmoid": {},
    "ipo": {"learning_rate": 0.01},
    "two": {"loss_type": ["sigmoid", "bco_pair"], "loss_weights": [0.8, 1.5]},
    "wpo": {"use_weighting": True},
    "last step is smaller": {"per_device_train_batch_size": 3, "max_steps": -1, "num_train_epochs": 1},
    "known beforehand": {"precompute_ref_log_probs": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_uniform_weights_equal_training_without_us(tmp_path: Path, kind: str) -> None:
    more = {**SHORT, **({"loss_type": kind} if kind == "ipo" else {}), **KINDS[kind]}
    made, without = dpo(tmp_path, Uniform(), **more), dpo(tmp_path, None, **more)
    before = parameters(made).clone()
    made.train()
    without.train()
    assert (parameters(made) - before).abs().max() > 1e-3
    torch.testing.assert_close(parameters(made), parameters(without), atol=1e-6, rtol=0)
    for name in ("loss", "rewards/margins", "entropy", "num_tokens"):
        np.testing.assert_allclose(logged(made, name), logged(without, name), atol=1e-4)


def log_probability(model: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
    row = torch.tensor([prompt + answer])
    token = -F.cross_entropy(model(row).logits[0, :-1], row[0, 1:], reduction="none")
    return token[len(prompt) - 1 :].sum()


def test_ten_steps_equal_the_plain_loop(tmp_path: Path) -> None:
    from weighted_stream import WeightedStream

    made = dpo(tmp_path, running())
    made.train()
    rows = list(made.train_dataset)
    model, reference = language_model(), language_model()
    stream, optimizer = WeightedStream(rows, running()), torch.optim.SGD(model.parameters(), lr=0.5)
    losses = []
    for step in made.diary:
        weight = stream.weight([number for part in step for number in part])
        optimizer.zero_grad()
        total, at = 0.0, 0
        for part in step:
            margins = []
            for row in (rows[number] for number in part):
                ratios = []
                for answer in (row["chosen_ids"], row["rejected_ids"]):
                    with torch.no_grad():
                        known = log_probability(reference, row["prompt_ids"], answer)
                    ratios.append(log_probability(model, row["prompt_ids"], answer) - known)
                margins.append(ratios[0] - ratios[1])
            pair = -F.logsigmoid(0.5 * torch.stack(margins))
            loss = (pair * weight[at : at + len(part)]).mean() / len(step)
            loss.backward()
            total, at = total + float(loss.detach()), at + len(part)
        optimizer.step()
        losses.append(total)
    np.testing.assert_allclose(logged(made), losses, atol=1e-4)
    expected = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    torch.testing.assert_close(parameters(made), expected, atol=1e-5, rtol=0)
    found, records = made.stream.store.get(range(len(rows))), stream.store.get(range(len(rows)))
    assert np.nanstd(records["weight"]) > 0.05
    for name in ("loss", "weight"):
        np.testing.assert_allclose(found[name], records[name], atol=1e-5)


def test_a_joint_strategy(tmp_path: Path) -> None:
    with pytest.raises(WindowError, match="extra_forward=True"):
        dpo(tmp_path, LinUpper()).train()
    made = dpo(tmp_path, LinUpper(), extra_forward=True, **SHORT)
    whole = dpo(tmp_path, LinUpper(), per_device_train_batch_size=8, gradient_accumulation_steps=1, **SHORT)
    made.train()
    whole.train()
    torch.testing.assert_close(parameters(made), parameters(whole), atol=1e-5, rtol=0)
    assert logged(made, "num_tokens") == logged(whole, "num_tokens")
    np.testing.assert_allclose(logged(made, "rewards/margins"), logged(whole, "rewards/margins"), atol=1e-5)


def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    more: dict[str, Any] = {"max_steps": 7, "save_strategy": "steps", "save_steps": 3, "precompute_ref_log_probs": True}
    whole = dpo(tmp_path, running(), **more)
    whole.train()
    again = dpo(tmp_path, running(), **more)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert torch.equal(parameters(again), parameters(whole))
    assert again.diary == whole.diary[3:]
    assert again.stream.stats() == whole.stream.stats()


def test_lora(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["c_attn"], task_type="CAUSAL_LM", fan_in_fan_out=True)
    made, without = (dpo(tmp_path, strategy, peft_config=config, **SHORT) for strategy in (Uniform(), None))
    made.train()
    without.train()
    np.testing.assert_allclose(logged(made), logged(without), atol=1e-4)


@pytest.mark.parametrize("kind", ["aot", "aot_unpaired", "sft"])
def test_losses_over_the_batch_are_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(LossError, match="not made of one loss for each pair"):
        dpo(tmp_path, Uniform(), loss_type=["sigmoid", kind])


def test_losses_and_chunks_of_ones_own_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LossError, match="losses"):
        dpo(tmp_path, Uniform(), losses=print)
    with pytest.raises(LossError, match="chunk_size"):
        dpo(tmp_path, Uniform(), chunk_size=64)


def test_a_loss_that_is_made_in_another_way_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = dpo(tmp_path, Uniform())
    assert isinstance(made, WeightedDPO)
    own = DPOTrainer.compute_loss
    monkeypatch.setattr(DPOTrainer, "compute_loss", lambda self, *args, **more: own(self, *args, **more) * 1.5)
    with pytest.raises(LossError, match="Cannot see the losses of the pairs"):
        made.train()
