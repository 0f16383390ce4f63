"""Sentence encoders of sentence-transformers, fed for throughput."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weighted_stream.errors import ScoringError, missing_extra
from weighted_stream.scoring.fields import check_texts
from weighted_stream.scoring.token_batches import Rows, ahead, pad, token_batches, windows

TOKENS = {"cpu": 2048, "cuda": 32_768}
"""Tokens of a batch: what fits a core's cache, and what fills a GPU."""

_KNOWN = {"input_ids", "attention_mask", "token_type_ids", "modality", "prompt_length"}


class SentenceEncoder:
    """A sentence-transformers model: the vectors of its own ``encode``, several times as fast.

    What makes it fast: texts are tokenised in large windows, in a thread, while the model works on the window before;
    they are sorted by length and batched by tokens, with lengths that are frequent in batches of their own, so that
    nothing is padded and attention needs no mask; the transformer runs in bfloat16 (its pooling in float32) where the
    device is good at it; batches are pinned and copied without waiting, and the vectors stay on the device.

    What makes it right: pooling, dense layers and normalisation are the model's own modules, its ``max_seq_length``,
    prompts and ``truncate_dim`` hold, and its tokenizer must agree on a few texts with what the model itself makes of
    them. A model that does not (no fast tokenizer, a chat template, images, flash attention that packs by itself, a
    first module that is no transformer) is run by its own ``encode`` instead; `refused` says why.

    Args:
        model: the folder or name of a model (loaded at the first use, in the process that uses it), or a
            ``SentenceTransformer`` (copied when it is first used, so it stays as it is).
        device: where to encode; None: the first GPU, if there is one.
        dtype: of the transformer. None: bfloat16 on a GPU and on processors with instructions for it (AMX, AVX-512
            BF16), else what the model has. The vectors are float32 always.
        prompt: put before each text; None: the model's default prompt, if it has one.
        batch_tokens: tokens of a batch, padding included. None: 2,048 on a CPU, 32,768 on a GPU.

    Raises:
        MissingExtraError: at the first use, if sentence-transformers is not installed.
        ScoringError: at the first use, if the model cannot be loaded, or is run by its own ``encode`` and ``dtype`` is
            given.

    Example:
        >>> encoder = SentenceEncoder("models/all-MiniLM-L6-v2", prompt="query: ")
        >>> encoder.name
        "SentenceEncoder('all-MiniLM-L6-v2', prompt='query: ')"
        >>> vectors = encoder.encode(["Two apples and three apples"])  # doctest: +SKIP
    """

    def __init__(
        self,
        model: Any,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        *,
        prompt: str | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        if batch_tokens is not None and batch_tokens < 1:
            raise ScoringError(
                "SentenceEncoder has an impossible batch_tokens.",
                found=batch_tokens,
                expected="an int of at least 1",
                do="pass another batch_tokens=",
            )
        self.model = os.fspath(model) if isinstance(model, (str, os.PathLike)) else model
        self.device = None if device is None else torch.device(device)
        self.dtype, self.prompt, self.batch_tokens = dtype, prompt, batch_tokens

    @property
    def name(self) -> str:
        """The model's name, without its folder, and the prompt."""
        path = self.model if isinstance(self.model, str) else _name_or_path(self.model)
        prompt = "" if self.prompt is None else f", prompt={self.prompt!r}"
        return f"SentenceEncoder({Path(path).name!r}{prompt})"

    @property
    def refused(self) -> str | None:
        """Why the model is run by its own ``encode``; None: it is not."""
        loaded = self._loaded
        return loaded.refused if isinstance(loaded, _Whole) else None

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_loaded"}

    @cached_property
    def _loaded(self) -> _Split | _Whole:
        device = self.device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = _load(self.model, device)
        prompt = self.prompt
        if prompt is None and model.default_prompt_name is not None:
            prompt = model.prompts.get(model.default_prompt_name)
        features, refused = _probe(model, prompt)
        if refused:
            if self.dtype is not None:
                raise ScoringError(
                    "This model is run by its own encode, which takes no dtype.",
                    found=f"dtype={self.dtype}; {refused}",
                    expected="dtype=None",
                    do="load the SentenceTransformer in that dtype, and pass it as the model",
                )
            return _Whole(model, prompt, refused)
        _cast(model[0], self.dtype or _best_dtype(model[0], device))
        for module in list(model)[1:]:
            module.float()  # they get features in float32, whatever the transformer runs in
        return _Split(model, prompt or "", features, device, self.batch_tokens or TOKENS.get(device.type, 2048))

    def encode(self, samples: Sequence[str], /) -> Tensor:
        """Unit vectors, (n, d) float32, on the encoder's device.

        Raises:
            ScoringError: if a sample is no str.
        """
        texts = check_texts(samples, "SentenceEncoder")
        with torch.inference_mode():
            vectors = torch.nn.functional.normalize(self._loaded.encode(texts or [""]), dim=1)
            return vectors[: len(texts)]


@dataclass
class _Whole:
    """A model that encodes by itself."""

    model: Any
    prompt: str | None
    refused: str

    def encode(self, texts: list[str]) -> Tensor:
        vectors = self.model.encode(texts, prompt=self.prompt, convert_to_tensor=True, show_progress_bar=False)
        return torch.as_tensor(vectors).float()


@dataclass
class _Split:
    """A model whose tokenizer, transformer and other modules are used one by one."""

    model: Any
    prompt: str
    features: dict[str, Any]
    device: torch.device
    batch_tokens: int

    def encode(self, texts: list[str]) -> Tensor:
        rows: list[Tensor] = []
        parts: list[Tensor] = []

        def prepare(window: slice) -> list[tuple[Tensor, dict[str, Tensor]]]:
            return self._batches(texts[window], window.start)

        for batches in ahead(prepare, windows(len(texts))):
            for numbers, inputs in batches:
                rows.append(numbers)
                parts.append(self._forward({key: self._move(value) for key, value in inputs.items()}))
        sorted_by_length = torch.cat(parts)
        vectors = torch.empty_like(sorted_by_length)
        vectors[torch.cat(rows).to(self.device)] = sorted_by_length
        return vectors

    def _batches(self, texts: list[str], start: int) -> list[tuple[Tensor, dict[str, Tensor]]]:
        tokens = _tokenise(self.model, texts, self.prompt)
        batches = token_batches([len(one) for one in tokens], self.batch_tokens)
        return [(torch.from_numpy(rows + start), self._inputs(tokens, rows)) for rows in batches]

    def _inputs(self, tokens: list[list[int]], rows: Rows) -> dict[str, Tensor]:
        tokenizer = self.model[0].tokenizer
        ids, mask = pad([tokens[row] for row in rows], tokenizer.pad_token_id, tokenizer.padding_side == "left")
        inputs = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in self.features:
            inputs["token_type_ids"] = torch.zeros_like(ids)
        return inputs

    def _move(self, tensor: Tensor) -> Tensor:
        if self.device.type != "cuda":
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def _forward(self, inputs: dict[str, Tensor]) -> Tensor:
        first, *others = self.model
        features = first({**self.features, **inputs})
        features = {key: value.float() if _floating(value) else value for key, value in features.items()}
        for module in others:
            features = module(features)
        return features["sentence_embedding"][:, : self.model.truncate_dim]  # type: ignore[no-any-return]


def _load(model: Any, device: torch.device) -> Any:
    if not isinstance(model, str):
        return copy.deepcopy(model).to(device).eval()
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise missing_extra("sentence-transformers", "embed") from error
    try:
        return SentenceTransformer(model, device=str(device)).eval()
    except (OSError, ValueError) as error:
        raise ScoringError(
            f"Cannot load the sentence encoder {model!r}.",
            found=f"{type(error).__name__}: {str(error)[:200]}",
            expected="the folder of a sentence-transformers model, or the name of one that can be fetched",
            do="check the path",
        ) from error


def _tokenise(model: Any, texts: list[str], prompt: str) -> list[list[int]]:
    """The token ids of each text as the model's tokenizer cuts them, without padding."""
    tokenizer = model[0].tokenizer
    encoded = tokenizer(
        [prompt + text for text in texts] if prompt else texts,
        truncation="longest_first",
        padding=False,
        return_attention_mask=False,
        return_token_type_ids=False,
    )
    return encoded["input_ids"]  # type: ignore[no-any-return]


def _probe(model: Any, prompt: str | None) -> tuple[dict[str, Any], str | None]:
    """What else the model's own preparation gives the transformer beside ids and mask, and why not to imitate it."""
    first = model[0]
    if "Transformer" not in {kind.__name__ for kind in type(first).__mro__}:
        return {}, f"its first module is a {type(first).__name__}, no transformer"
    if not hasattr(model, "preprocess"):
        return {}, "this version of sentence-transformers has no preprocess()"
    if not getattr(first.tokenizer, "is_fast", False):
        return {}, "it has no fast tokenizer"
    texts = ["Two and two.", "", "Ein Äpfelchen, 数 ", "a b " * (model.max_seq_length or 4096)]
    features = dict(model.preprocess(texts, prompt=prompt))
    unknown = set(features) - _KNOWN
    if unknown or features.get("modality", "text") != "text" or "attention_mask" not in features:
        return {}, f"its transformer takes {sorted(features)} ({features.get('modality')})"
    real = features["attention_mask"].bool()
    theirs = [ids[mask].tolist() for ids, mask in zip(features["input_ids"], real, strict=True)]
    kinds = features.get("token_type_ids")
    if theirs != _tokenise(model, texts, prompt or "") or (kinds is not None and kinds.any()):
        return {}, "its tokens are not those of its tokenizer"
    return {key: value for key, value in features.items() if key not in {"input_ids", "attention_mask"}}, None


def _best_dtype(module: torch.nn.Module, device: torch.device) -> torch.dtype | None:
    """The dtype a device is fast in; None: leave it."""
    if device.type == "cpu":
        # Private, but the only questions torch 2.7 has an answer to; where they are missing, nothing is cast.
        fast = any(getattr(torch.cpu, f"_is_{kind}_supported", bool)() for kind in ("amx_tile", "avx512_bf16"))
    else:
        fast = device.type == "cuda" and _has_bfloat16(device)
    full = all(value.dtype == torch.float32 for value in module.parameters() if value.is_floating_point())
    return torch.bfloat16 if fast and full else None


def _has_bfloat16(device: torch.device) -> bool:
    """Whether a GPU computes in bfloat16 itself (since Ampere), and does not imitate it."""
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def _cast(module: torch.nn.Module, dtype: torch.dtype | None) -> None:
    """Cast the parameters; buffers stay, since rotary frequencies lose their meaning in bfloat16."""
    for value in module.parameters():
        if dtype is not None and value.is_floating_point():
            value.data = value.data.to(dtype)


def _floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _name_or_path(model: Any) -> str:
    config = getattr(getattr(model[0], "auto_model", None), "config", None)
    return str(getattr(config, "_name_or_path", "") or type(model[0]).__name__)
