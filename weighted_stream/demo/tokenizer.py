"""Byte-level BPE, trained on the stream: texts to rows of token numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from weighted_stream.errors import missing_extra

PADDING = 0
"""The token that fills rows up; it is never a label."""


class BPE:
    """A tokenizer trained on texts; the same texts give the same tokenizer. It pickles, for loader workers.

    Args:
        texts: what to train on.
        vocab: number of tokens; at least 257, for padding and the bytes.

    Raises:
        MissingExtraError: if the package ``tokenizers`` is not installed.

    Example:
        >>> bpe = BPE(["low lower lowest"] * 4, vocab=262)
        >>> bpe.encode(["low low"], length=6).shape
        torch.Size([1, 6])
    """

    def __init__(self, texts: Iterable[str], vocab: int = 512) -> None:
        try:
            from tokenizers import Tokenizer, models, pre_tokenizers, trainers
        except ImportError as error:
            raise missing_extra("tokenizers", "cli") from error
        self._tokenizer: Any = Tokenizer(models.BPE())
        self._tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=vocab,
            special_tokens=["<padding>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        self._tokenizer.train_from_iterator(texts, trainer)
        self.vocab = vocab

    def encode(self, texts: Sequence[str], length: int) -> Tensor:
        """The first ``length`` tokens of each text: (B, length) int64, filled up with `PADDING`."""
        rows = torch.full((len(texts), length), PADDING, dtype=torch.int64)
        for row, encoding in zip(rows, self._tokenizer.encode_batch(list(texts)), strict=True):
            ids = torch.tensor(encoding.ids[:length], dtype=torch.int64)
            row[: len(ids)] = ids
        return rows
