"""Small models, texts and pairs for TRL's trainers, without a hub."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import nn
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from weighted_stream import LinUpper, Strategy, WeightedTrainerMixin

quiet = [
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


class Diary:
    """Writes down the ids of each optimizer step."""

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        batches, items = super().get_batch_samples(*args, **kwargs)  # type: ignore[misc]
        if not hasattr(self, "diary"):
            self.diary: list[list[list[int]]] = []
        if batches:  # 4.57 asks again at the end of an epoch that was gone on with
            self.diary.append([batch["sample_id"].tolist() for batch in batches])
        return batches, items


class WeightedSFT(Diary, WeightedTrainerMixin, SFTTrainer):
    """What a user writes."""


class WeightedDPO(Diary, WeightedTrainerMixin, DPOTrainer):
    """What a user writes."""


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


def sft(folder: Path, strategy: Strategy | None, dataset: Any = None, **more: Any) -> Any:
    ours = {
        name: more.pop(name) for name in ("store", "losses", "extra_forward", "id_fn", "chunk_size") if name in more
    }
    kind: Any = SFTTrainer if strategy is None else partial(WeightedSFT, strategy=strategy, **ours)
    made = kind(
        model=language_model(),
        args=arguments(SFTConfig, folder, **more),
        train_dataset=texts() if dataset is None else dataset,
        processing_class=tokenizer(),
    )
    made.remove_callback(transformers.PrinterCallback)
    return made


def parameters(made: Any) -> torch.Tensor:
    return nn.utils.parameters_to_vector(made.model.parameters()).detach()


def logged(made: Any, name: str = "loss") -> list[float]:
    return [entry[name] for entry in made.state.log_history if name in entry]


def pairs() -> Any:
    """Questions with a better and a worse answer, of some tokens each."""
    generator = torch.Generator().manual_seed(1)

    def words(count: int) -> str:
        return " ".join(f"w{n}" for n in torch.randint(0, VOCABULARY - 2, (count,), generator=generator).tolist())

    return datasets.Dataset.from_dict(
        {
            "prompt": [words(3) for _ in range(SAMPLES)],
            "chosen": [" " + words(2 + at % 4) for at in range(SAMPLES)],
            "rejected": [" " + words(2 + at % 3) for at in range(SAMPLES)],
        }
    )


def dpo(folder: Path, strategy: Strategy | None, **more: Any) -> Any:
    ours = {name: more.pop(name) for name in ("store", "losses", "extra_forward", "chunk_size") if name in more}
    peft_config = more.pop("peft_config", None)
    kind: Any = DPOTrainer if strategy is None else partial(WeightedDPO, strategy=strategy, **ours)
    made = kind(
        model=language_model(),
        ref_model=None if peft_config is not None or more.get("precompute_ref_log_probs") else language_model(),
        args=arguments(DPOConfig, folder, **{"learning_rate": 0.5, "beta": 0.5, **more}),
        train_dataset=pairs(),
        processing_class=tokenizer(),
        peft_config=peft_config,
    )
    made.remove_callback(transformers.PrinterCallback)
    return made
