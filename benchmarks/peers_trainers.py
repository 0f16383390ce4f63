"""What `benchmarks.peers` times in Hugging Face's Trainer: plain, weighted by us, and by DataFlex's weighters."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers_found import data_flex, without_its_log
from weighted_stream import Adapt, LinUpper

ROWS, CONTEXT, VOCAB, ANCHORS = 4096, 64, 512, 32


def rows(count: int = ROWS, seed: int = 0) -> list[dict[str, Tensor]]:
    """Random tokens, as a Trainer takes them."""
    tokens = torch.randint(1, VOCAB, (count, CONTEXT), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones(CONTEXT, dtype=torch.int64)
    return [{"input_ids": row, "attention_mask": mask, "labels": row} for row in tokens]


def small_model(width: int = 96) -> Any:
    """A Llama of two layers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=CONTEXT,
    )
    return LlamaForCausalLM(config)


def arguments(folder: str, steps: int, batch: int, parts: int, device: str) -> Any:
    """As few extras as there can be."""
    from transformers import TrainingArguments

    return TrainingArguments(
        folder,
        max_steps=steps,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=parts,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=device == "cpu",
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )


def plain(model: Any, **given: Any) -> Any:
    from transformers import Trainer

    return Trainer(model, **given)


def ours(strategy: Callable[[Any], Any]) -> Callable[..., Any]:
    """Our mixin, with a store in memory."""

    def make(model: Any, **given: Any) -> Any:
        from transformers import Trainer

        from weighted_stream import WeightedTrainerMixin

        class WeightedTrainer(WeightedTrainerMixin, Trainer):
            """Three lines."""

        return WeightedTrainer(model, strategy=strategy(model), **given)

    return make


def adapt(model: Any) -> Adapt:
    return Adapt(model, [torch.stack([row["input_ids"] for row in rows(ANCHORS, seed=1)])])


def theirs(name: str, **options: Any) -> Callable[..., Any]:
    """A Trainer whose step is the weighter's, as DataFlex's own (which is LLaMA-Factory's) does it."""

    def make(model: Any, **given: Any) -> Any:
        from transformers import Trainer, default_data_collator

        runtime = {"eval_dataset": rows(ANCHORS, seed=1), "data_collator": default_data_collator}
        weighter = data_flex().build("weighter", name, runtime=runtime, cfg=options)

        class Weighted(Trainer):  # type: ignore[misc, unused-ignore]
            """The step is handed to the weighter."""

            def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
                step: Tensor = weighter.training_step(self, model, inputs, num_items_in_batch, True)
                return step

        return Weighted(model, **given)

    return make


def quiet(make: Callable[..., Any]) -> Callable[..., Any]:
    """With DataFlex's log switched off."""
    return lambda model, **given: (make(model, **given), without_its_log())


WAYS: dict[str, Callable[..., Any]] = {
    "weighted_stream, LinUpper(window='running')": ours(lambda model: LinUpper(window="running")),
    "weighted_stream, Adapt": ours(adapt),
    "DataFlex, loss weighter": theirs("loss"),
    "DataFlex, loss weighter, its log off": quiet(theirs("loss")),
    "DataFlex, ADAPT weighter": theirs("adapt"),
    "DataFlex, ADAPT weighter, its log off": quiet(theirs("adapt")),
}


def step_time(make: Callable[..., Any], steps: int, batch: int, parts: int, device: str) -> float:
    """Milliseconds of the median step of a training of ``steps`` steps, loader included; the first is not counted."""
    from transformers import PrinterCallback, TrainerCallback, default_data_collator

    times: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc, unused-ignore]
        """Looks at the end of each step."""

        def on_step_end(self, *given: Any, **named: Any) -> None:
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        given = arguments(folder, steps, batch, parts, device)
        made = make(
            small_model(), args=given, train_dataset=rows(), data_collator=default_data_collator, callbacks=[Clock()]
        )
        trainer, around = made if isinstance(made, tuple) else (made, contextlib.nullcontext())
        trainer.remove_callback(PrinterCallback)
        with around:
            trainer.train()
    between = [b - a for a, b in pairwise(times)]
    return sorted(between)[len(between) // 2] * 1e3
