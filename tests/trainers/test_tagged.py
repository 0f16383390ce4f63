"""Ids around collators: whose each row, or each token, is."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import default_data_collator

from weighted_stream import SourceError
from weighted_stream.trainers.tagged import CollateAround


def tokenizer() -> Any:
    words = {f"w{number}": number for number in range(8)} | {"<pad>": 8, "<mask>": 9}
    made = Tokenizer(WordLevel(words, unk_token="<pad>"))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", mask_token="<mask>")


COLLATORS = {
    "default": lambda: default_data_collator,
    "padding": lambda: transformers.DataCollatorWithPadding(tokenizer()),
    "language": lambda: transformers.DataCollatorForLanguageModeling(tokenizer(), mlm=False),
    "masked": lambda: transformers.DataCollatorForLanguageModeling(tokenizer(), mlm_probability=0.3),
    "sequences": lambda: transformers.DataCollatorForSeq2Seq(tokenizer()),
    "tokens": lambda: transformers.DataCollatorForTokenClassification(tokenizer()),
}


@pytest.mark.filterwarnings("ignore:You're using a")
@pytest.mark.parametrize("name", COLLATORS)
def test_collators_of_transformers(name: str) -> None:
    lengths = [4, 4, 4] if name == "default" else [4, 2, 3]
    samples = [{"input_ids": list(range(n)), "attention_mask": [1] * n} for n in lengths]
    if name in ("sequences", "tokens"):
        samples = [{**sample, "labels": sample["input_ids"]} for sample in samples]
    ids = [7, 7, 2**62]
    tagged = [{**sample, "sample_id": number} for sample, number in zip(samples, ids, strict=True)]
    torch.manual_seed(0)
    expected = COLLATORS[name]()([dict(sample) for sample in samples])
    torch.manual_seed(0)
    found = CollateAround(COLLATORS[name]())(tagged)
    assert found.pop("sample_id").tolist() == ids
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


def flat(pad: int = 0, left: bool = False) -> Any:
    """Puts all samples into one row."""

    def collate(samples: list[Any]) -> Any:
        row = [number for sample in samples for number in sample["input_ids"]]
        row = [0] * pad + row if left else row + [0] * pad
        return {"input_ids": torch.tensor([row])}

    return collate


def test_whose_tokens_are() -> None:
    two = [{"input_ids": [1, 2, 3], "sample_id": 7}, {"input_ids": [4, 5], "sample_id": 9}]
    batch = CollateAround(flat(pad=2))(two)
    assert batch["sample_id"].tolist() == [7, 9]
    assert batch["token_owners"].tolist() == [[0, 0, 0, 1, 1, -1, -1]]
    assert CollateAround(flat(pad=1, left=True))(two)["token_owners"].tolist() == [[-1, 0, 0, 0, 1, 1]]
    packs = [
        {"input_ids": [1, 2, 3], "labels": [1, 2, 3], "sample_id": [7, 7, 8]},
        {"input_ids": [4, 5, 6], "labels": [4, 5, -100], "sample_id": [9, 7, 5]},
    ]
    batch = CollateAround(default_data_collator)(packs)
    assert batch["sample_id"].tolist() == [7, 8, 9]  # 5 has no label
    assert batch["token_owners"].tolist() == [[0, 0, 1], [2, 0, -1]]


def test_rows_that_are_not_the_tokens_of_their_samples_are_refused() -> None:
    two = [{"input_ids": [1, 2, 3], "sample_id": 7}, {"input_ids": [4, 5], "sample_id": 9}]
    with pytest.raises(SourceError, match="does not hold the tokens"):
        CollateAround(lambda samples: flat()(samples[::-1]))(two)
    with pytest.raises(SourceError, match="does not hold the tokens"):
        CollateAround(lambda samples: flat()(samples[:1]))(two)
    with pytest.raises(SourceError, match="an id for each token"):
        CollateAround(flat())([{"input_ids": [1, 2], "sample_id": [7]}])
    with pytest.raises(SourceError, match="one row of input_ids"):
        CollateAround(lambda samples: {"x": torch.zeros(1)})(two)
