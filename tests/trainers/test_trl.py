"""WeightedTrainerMixin in TRL's trainers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytest.importorskip("trl")

import datasets
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from weighted_stream import LinUpper, LossError, SourceError, Strategy, Uniform, WeightedTrainerMixin, WindowError

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:trl"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*padding-free.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*flash attention.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*attention implementation.*:UserWarning"),
]

SAMPLES, VOCABULARY = 88, 64
running = partial(LinUpper, window="running", memory=64)


class WeightedSFT(WeightedTrainerMixin, SFTTrainer):
    """What a user writes, and a diary of the ids of each optimizer step."""

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        batches, items = super().get_batch_samples(*args, **kwargs)
        if not hasattr(self, "diary"):
            self.diary: list[list[list[int]]] = []
        self.diary.append([batch["sample_id"].tolist() for batch in batches])
        return batches, items


def tokenizer() -> Any:
    words = {f"w{number}": number for number in range(VOCABULARY - 2)} | {"<pad>": 62, "<eos>": 63}
    made = Tokenizer(WordLevel(words, unk_token="<pad>"))
    made.pre_tokenizer = Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<eos>")


def texts() -> Any:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(0, VOCABULARY - 2, (SAMPLES, 12), generator=generator).tolist()
    return datasets.Dataset.from_dict(
        {"text": [" ".join(f"w{number}" for number in row[: 5 + at % 7]) for at, row in enumerate(rows)]}
    )


def language_model() -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=2,
        n_embd=32,
        n_head=2,
        vocab_size=VOCABULARY,
        n_positions=64,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=63,
        eos_token_id=63,
        pad_token_id=62,
    )
    return transformers.GPT2LMHeadModel(config)


def arguments(kind: Any, folder: Path, **more: Any) -> Any:
    return kind(
        **{
            "output_dir": str(folder),
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 4,
            "max_steps": 10,
            "learning_rate": 0.2,
            "lr_scheduler_type": "constant",
            "optim": "sgd",
            "max_grad_norm": 0.0,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": [],
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "dataloader_pin_memory": False,
            "disable_tqdm": True,
            "seed": 3,
            **more,
        }
    )


def sft(folder: Path, strategy: Strategy | None, **more: Any) -> Any:
    ours = {name: more.pop(name) for name in ("store", "losses", "extra_forward") if name in more}
    kind: Any = SFTTrainer if strategy is None else partial(WeightedSFT, strategy=strategy, **ours)
    made = kind(
        model=language_model(),
        args=arguments(SFTConfig, folder, **more),
        train_dataset=texts(),
        processing_class=tokenizer(),
    )
    made.remove_callback(transformers.PrinterCallback)
    return made


def parameters(made: Any) -> torch.Tensor:
    return nn.utils.parameters_to_vector(made.model.parameters()).detach()


def logged(made: Any, name: str = "loss") -> list[float]:
    return [entry[name] for entry in made.state.log_history if name in entry]


PADDING_FREE = {"padding_free": True, "max_length": None}
PACKED = {"packing": True, "max_length": 24}


@pytest.mark.parametrize("more", [{}, PADDING_FREE, PACKED], ids=["padded", "padding-free", "packed"])
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


def test_losses_of_pairs_are_refused(tmp_path: Path) -> None:
    class WeightedDPO(WeightedTrainerMixin, DPOTrainer):
        pass

    pairs = datasets.Dataset.from_dict({"prompt": ["w1 w2"] * 8, "chosen": ["w3 w4"] * 8, "rejected": ["w5 w6"] * 8})
    made = WeightedDPO(
        model=language_model(),
        ref_model=language_model(),
        args=arguments(DPOConfig, tmp_path),
        train_dataset=pairs,
        processing_class=tokenizer(),
        strategy=Uniform(),
    )
    with pytest.raises((SourceError, LossError), match="DPO"):
        made.train()
