"""Rows of several samples: each keeps its id, its loss and its weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("trl")

import datasets
from pinning import pinning
from small_trl import SAMPLES, language_model, logged, parameters, quiet, running, sft, texts, tokenizer
from trl import pack_dataset

from weighted_stream import LinUpper, SampleIdError, SourceError, Uniform, WindowError

pytestmark = quiet

PACKED: dict[str, Any] = {"packing": True, "max_length": 24, "max_steps": 3}
FLAT: dict[str, Any] = {"padding_free": True, "max_length": None}
WAYS = {
    "bfd": {},
    "in pieces": {"packing_strategy": "bfd_split", "max_length": 7},
    "wrapped": {"packing_strategy": "wrapped", "max_length": 17},
}


@pytest.mark.parametrize("way", WAYS)
def test_uniform_weights_equal_training_without_us(tmp_path: Path, way: str) -> None:
    more = {**PACKED, **WAYS[way]}
    made, without = sft(tmp_path, Uniform(), **more), sft(tmp_path, None, **more)
    assert made.train_dataset["input_ids"] == without.train_dataset["input_ids"]
    made.train()
    without.train()
    torch.testing.assert_close(parameters(made), parameters(without), atol=1e-6, rtol=0)
    np.testing.assert_allclose(logged(made), logged(without), atol=1e-4)


def token_ids() -> list[torch.Tensor]:
    """The samples as the SFTTrainer sees them."""
    made = tokenizer()
    return [torch.tensor(made(text + "<eos>")["input_ids"]) for text in texts()["text"]]


@pytest.mark.parametrize("more", [PACKED, FLAT], ids=["packed", "padding-free"])
def test_weights_and_losses_are_those_of_a_plain_loop_over_the_samples(tmp_path: Path, more: dict[str, Any]) -> None:
    from weighted_stream import WeightedStream

    made = sft(tmp_path, running(), **{**more, "max_steps": 3 if more is PACKED else 6})
    made.train()
    assert any(len(part) > 2 for step in made.diary for part in step) == (more is PACKED)
    rows, model = token_ids(), language_model()
    stream, optimizer = WeightedStream(rows, running()), torch.optim.SGD(model.parameters(), lr=0.2)
    losses = []
    for step in made.diary:
        ids = [number for part in step for number in part]
        token = [
            F.cross_entropy(model(rows[number][None]).logits[0, :-1], rows[number][1:], reduction="none")
            for number in ids
        ]
        mean = torch.stack([values.mean() for values in token])
        counts = torch.tensor([len(values) for values in token])
        parts = zip(mean.split([len(p) for p in step]), stream.weight(ids).split([len(p) for p in step]), strict=True)
        total = (torch.cat([part * weight for part, weight in parts]) * counts).sum() / counts.sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(total.item())
    np.testing.assert_allclose(logged(made), losses, atol=1e-3)
    expected = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    torch.testing.assert_close(parameters(made), expected, atol=1e-5, rtol=0)
    found, records = made.stream.store.get(range(SAMPLES)), stream.store.get(range(SAMPLES))
    assert np.nanstd(records["weight"]) > 0.05
    for name in ("loss", "weight"):
        np.testing.assert_allclose(found[name], records[name], atol=1e-5)
    np.testing.assert_array_equal(found["visits"], records["visits"])


def test_ids_are_those_of_the_dataset_that_was_given(tmp_path: Path) -> None:
    shuffled = texts().shuffle(seed=4)
    made = sft(tmp_path, Uniform(), dataset=shuffled, shuffle_dataset=True, dataset_num_proc=2, **PACKED)
    texts_of = {row["text"]: at for at, row in enumerate(texts())}
    whose = tokenizer()
    for row in made.train_dataset:
        start = 0
        for length in row["seq_lengths"]:
            piece = slice(start, start + length)
            (number,) = set(row["sample_id"][piece])
            assert texts_of[whose.decode(row["input_ids"][piece][:-1])] == number
            start += length
    keyed = texts().add_column("url", [f"row-{at}" for at in range(SAMPLES)])
    made = sft(tmp_path, Uniform(), dataset=keyed, id_fn="url", **PACKED)
    made.train()
    assert made.stream.store.stats()["visits"] == sum(len(part) for step in made.diary for part in step)
    assert len(set(made.train_dataset[0]["sample_id"])) > 1


def test_a_dataset_that_is_read_in_order(tmp_path: Path) -> None:
    keyed = texts().add_column("url", [f"row-{at}" for at in range(SAMPLES)])
    made = sft(tmp_path, Uniform(), dataset=keyed.to_iterable_dataset(), id_fn="url", **PACKED)
    without = sft(tmp_path, None, dataset=keyed.to_iterable_dataset(), **PACKED)
    made.train()
    without.train()
    torch.testing.assert_close(parameters(made), parameters(without), atol=1e-6, rtol=0)
    assert made.stream.stats()["samples"] == sum(len(part) for step in made.diary for part in step)
    with pytest.raises(SampleIdError):
        sft(tmp_path, Uniform(), dataset=keyed.to_iterable_dataset(), **PACKED)


def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    more: dict[str, Any] = {**PACKED, "max_steps": 7, "save_strategy": "steps", "save_steps": 3}
    whole = sft(tmp_path, running(), **more)
    whole.train()
    again = sft(tmp_path, running(), **more)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert torch.equal(parameters(again), parameters(whole))
    assert again.diary == whole.diary[3:]
    assert again.stream.stats() == whole.stream.stats()


def test_a_joint_strategy(tmp_path: Path) -> None:
    with pytest.raises(WindowError, match="extra_forward=True"):
        sft(tmp_path, LinUpper(), **PACKED).train()
    made = sft(tmp_path, LinUpper(), extra_forward=True, **PACKED)
    whole = sft(tmp_path, LinUpper(), **{**PACKED, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1})
    made.train()
    whole.train()
    torch.testing.assert_close(parameters(made), parameters(whole), atol=1e-5, rtol=0)


def test_packs_of_ones_own(tmp_path: Path) -> None:
    rows = [{"input_ids": row.tolist(), "sample_id": [at] * len(row)} for at, row in enumerate(token_ids())]
    packs = pack_dataset(datasets.Dataset.from_list(rows), 24, "bfd")
    more = {**FLAT, "max_steps": 3}
    made, ours = sft(tmp_path, running(), dataset=packs, **more), sft(tmp_path, running(), **PACKED)
    made.train()
    ours.train()
    assert made.diary == ours.diary
    torch.testing.assert_close(parameters(made), parameters(ours), atol=1e-6, rtol=0)
    nameless = sft(tmp_path, running(), dataset=packs.remove_columns("sample_id"), **more)
    nameless.train()
    assert nameless.diary == [[[0, 1]]] or all(len(part) == 2 for step in nameless.diary for part in step)


def test_a_column_of_that_name_is_refused(tmp_path: Path) -> None:
    named = texts().add_column("sample_id", list(range(SAMPLES)))
    with pytest.raises(SourceError, match="a column 'sample_id' already"):
        sft(tmp_path, Uniform(), dataset=named, **PACKED)


@pytest.mark.parametrize("more", [PACKED, FLAT], ids=["packed", "padding-free"])
def test_pinned_memory_changes_nothing(tmp_path: Path, more: dict[str, Any]) -> None:
    more = {**more, "max_steps": 2}
    made = sft(tmp_path / "one", running(), **more)
    made.train()
    with pinning() as pinned:
        other = sft(tmp_path / "two", running(), **more, dataloader_num_workers=2)
        other.args.dataloader_pin_memory = True  # on a CPU the arguments themselves say no
        other.train()
    assert pinned
    assert other.diary == made.diary
    assert torch.equal(parameters(other), parameters(made))
