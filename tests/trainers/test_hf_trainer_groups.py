"""group_fn of WeightedTrainerMixin: the store knows the groups, whatever the Trainer drops, and however it reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import run_ranks_of_environment

pytest.importorskip("transformers")
pytest.importorskip("datasets")

import datasets
import transformers
from transformers import Trainer, TrainingArguments

from weighted_stream import OnlineDataMixing, SourceError, Strategy, Uniform, WeightedTrainerMixin

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]

SAMPLES = 48
NAMES = ["code", "prose ä", "a name as long as a sentence, longer than all others"]
ROWS = [
    {"input_ids": [n, n + 1, n + 2, n % 5], "labels": [n, n + 1, n + 2, n % 5], "kind": NAMES[n % 3], "url": f"row-{n}"}
    for n in range(SAMPLES)
]


class WeightedTrainer(WeightedTrainerMixin, Trainer):
    """What a user writes."""


def trainer(folder: Path, dataset: Any, strategy: Strategy, group_fn: Any, id_fn: Any = None, **more: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=64, n_positions=8)
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
    arguments = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_steps": 6,
        "optim": "sgd",
        "learning_rate": 0.2,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        **more,
    }
    made = WeightedTrainer(
        transformers.GPT2LMHeadModel(config),
        TrainingArguments(**arguments),
        train_dataset=dataset,
        strategy=strategy,
        group_fn=group_fn,
        id_fn=id_fn,
    )
    made.remove_callback(transformers.PrinterCallback)
    return made


def groups(made: Any, ids: Any = range(SAMPLES)) -> list[str]:
    store = made.stream.store
    return [store.groups[number] for number in store.get(ids)["group"]]


def of_row(row: dict[str, Any]) -> str:
    assert "sample_id" not in row
    return str(row.pop("kind"))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("group_fn", ["kind", of_row], ids=["column", "function"])
def test_the_column_is_dropped_later(tmp_path: Path, group_fn: Any, workers: int) -> None:
    data = datasets.Dataset.from_list(ROWS)
    made = trainer(tmp_path, data, OnlineDataMixing(), group_fn, dataloader_num_workers=workers)
    before = trainer(tmp_path, data, OnlineDataMixing(), None, dataloader_num_workers=workers)
    before.stream.store.set_groups(range(SAMPLES), [row["kind"] for row in ROWS])
    made.train()
    before.train()
    assert groups(made) == [row["kind"] for row in ROWS]
    assert set(made.stream.strategy.domain_weights) == set(NAMES)
    for one, other in zip(made.model.parameters(), before.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_rows_in_a_list_and_columns_that_stay(tmp_path: Path) -> None:
    def collate(rows: list[Any]) -> Any:
        return {name: torch.tensor([row[name] for row in rows]) for name in ("input_ids", "labels")}

    made = trainer(tmp_path, ROWS, OnlineDataMixing(), "kind", remove_unused_columns=False)
    made.data_collator = collate
    made.train()
    assert groups(made) == [row["kind"] for row in ROWS]


@pytest.mark.parametrize("split", [False, True])
def test_a_dataset_that_is_read_in_order(tmp_path: Path, split: bool) -> None:
    data = datasets.IterableDataset.from_generator(lambda: iter(ROWS))
    more = {"accelerator_config": {"dispatch_batches": True, "split_batches": split}}
    made = trainer(tmp_path, data, OnlineDataMixing(), "kind", id_fn="url", **more)
    seen: list[int] = []
    weight = made.stream.weight
    made.stream.weight = lambda ids: (seen.extend(ids.tolist()), weight(ids))[1]
    made.train()
    assert groups(made, seen) == [row["kind"] for row in ROWS]


def test_evaluation_is_as_without_us(tmp_path: Path) -> None:
    made = trainer(tmp_path, ROWS, Uniform(), "kind")
    made.train()
    assert np.isfinite(made.evaluate([{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}] * 4)["eval_loss"])


def one_rank(rank: int, folder: str) -> None:
    """Batches of its own, and batches that the first rank reads for all, whose names are of several lengths."""
    ours = [{**row, "kind": "ab"[n // 4 % 2] * (1 + n // 4 % 2)} for n, row in enumerate(ROWS)]
    for dispatch in (False, True):
        more = {"accelerator_config": {"dispatch_batches": dispatch}, "ddp_backend": "gloo"}
        made = trainer(Path(folder), ours, OnlineDataMixing(), "kind", gradient_accumulation_steps=1, **more)
        made.train()
        found = groups(made, np.flatnonzero(made.stream.store.get(range(SAMPLES))["visits"]))
        assert len(found) == SAMPLES
        assert found == [row["kind"] for row in ours]
        made.stream.close()


@pytest.mark.timeout(300)
def test_ranks_tell_each_other(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    run_ranks_of_environment(one_rank, 2, str(tmp_path))


def test_what_cannot_be_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not say which group"):
        trainer(tmp_path, ROWS, Uniform(), 3)
    with pytest.raises(SourceError, match=r"no column 'domain'[^\n]*\n[^\n]*\['input_ids', 'kind', 'labels', 'url'\]"):
        trainer(tmp_path, ROWS, Uniform(), "domain").train()
    packs = [{"input_ids": [1, 2, 3], "labels": [1, 2, 3], "sample_id": [0, 0, 1], "kind": "code"}] * 8
    with pytest.raises(SourceError, match=r"packs[^!]*set_groups"):
        trainer(tmp_path, packs, Uniform(), "kind")

    class OwnLoader(Trainer):
        def get_train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(self.train_dataset, batch_size=4, collate_fn=self.data_collator)

    class Weighted(WeightedTrainerMixin, OwnLoader):
        pass

    first = trainer(tmp_path, ROWS, Uniform(), None)
    rows = [{name: row[name] for name in ("input_ids", "labels")} for row in ROWS]
    made = Weighted(first.model, first.args, train_dataset=rows, strategy=Uniform(), group_fn=lambda row: "code")
    with pytest.raises(SourceError, match="came without the groups"):
        made.train()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_trl(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    import small_trl
    from trl import SFTConfig

    def sft(**more: Any) -> Any:
        return small_trl.WeightedSFT(
            model=small_trl.language_model(),
            args=small_trl.arguments(SFTConfig, tmp_path, **more),
            train_dataset=small_trl.texts().add_column("kind", kinds),
            processing_class=small_trl.tokenizer(),
            strategy=Uniform(),
            group_fn="kind",
        )

    kinds = [NAMES[n % 3] for n in range(small_trl.SAMPLES)]
    made = sft(padding_free=True, max_length=None)
    made.train()
    weighed = np.flatnonzero(made.stream.store.get(range(small_trl.SAMPLES))["visits"])
    assert groups(made, weighed) == [kinds[n] for n in weighed]
    with pytest.raises(SourceError, match=r"packs[^!]*set_groups"):
        sft(packing=True, max_length=32)


def test_a_name_that_is_too_long_for_a_batch(tmp_path: Path) -> None:
    made = trainer(tmp_path, datasets.Dataset.from_list(ROWS), OnlineDataMixing(), lambda row: row["kind"] * 300)
    with pytest.raises(SourceError, match="bytes"):
        made.train()
