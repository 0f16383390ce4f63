"""WebDataset's decoders unpickle members named ``.pyd``, ``.pkl``, ``.pth``: refused here, before they do.

Whoever can write a shard could otherwise run any code on the machine that trains. ``WDS_SECURE=1`` of webdataset 1.0.2
does not keep its ``xdecode`` from it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from functools import partial
from typing import Any, TypeVar

from weighted_stream.errors import SourceError
from weighted_stream.sources.shard_names import location
from weighted_stream.sources.tracking import stage_name

T = TypeVar("T")

PICKLED = frozenset({"pickle", "pkl", "pt", "pth", "pyd"})
"""Endings of members that webdataset unpickles, as far as this version of it has a decoder for them."""

_TRUSTED = "_weighted_stream_trusts_pickles"
_FILTERS = "webdataset.filters."
_WITH_FUNCTIONS = {_FILTERS + name for name in ("_decode", "_map", "_map_dict", "_map_tuple", "_xdecode")}
_UNPICKLES = {
    *("_pickle.load", "_pickle.loads", "pickle._load", "pickle._loads", "dill._dill.load", "dill._dill.loads"),
    *("joblib.numpy_pickle.load", "pandas.io.pickle.read_pickle", "webdataset.filters.decode_pickle"),
    *("webdataset.autodecode.unpickle_loads", "webdataset.autodecode.torch_loads"),
}


def trust_pickles(data: T) -> T:
    """Let a WebDataset's decoders unpickle members, which **runs whatever code whoever wrote the shards put there**.

    Without it, such members are refused: store values as ``.json``, ``.npy`` or ``.txt`` instead. (For MosaicML shards
    with ``pkl`` columns, the ``StreamingDataset`` itself asks for ``allow_unsafe_types=True``.)

    Args:
        data: a ``webdataset.WebDataset``, ``DataPipeline``, ``WebLoader``, ``RandomMix`` or ``RoundRobin`` whose shards
            you made yourself, or whose writers you would let run code on this machine. It is marked.

    Returns:
        ``data``, so that it reads ``WeightedStream(trust_pickles(dataset), ...)``.

    Raises:
        SourceError: if it is none of these.

    Example:
        >>> trust_pickles([1, 2])
        Traceback (most recent call last):
        weighted_stream.errors.SourceError: trust_pickles is about the decoders of a WebDataset.
          found:    list
          expected: a webdataset pipeline
          to do:    leave it out; StreamingDataset has allow_unsafe_types=True
    """
    if not (is_pipeline(data) or is_mix(data)):
        raise SourceError(
            "trust_pickles is about the decoders of a WebDataset.",
            found=type(data).__name__,
            expected="a webdataset pipeline",
            do="leave it out; StreamingDataset has allow_unsafe_types=True",
        )
    setattr(data, _TRUSTED, True)
    return data


def trusts_pickles(data: Any) -> bool:
    """Whether `trust_pickles` was said of it."""
    return bool(vars(data).get(_TRUSTED, False))


def refusing(stage: Any) -> list[Any]:
    """A stage, with a `RefusePickles` in front of it if it decodes.

    Raises:
        SourceError: for a stage that could do nothing but unpickle.
    """
    name = stage_name(stage)
    if name == _FILTERS + "LMDBCached" and _unpickles(getattr(stage.pickler, "loads", None)):
        raise _refuse_stage(stage, "a cache whose samples are pickles in a file")
    if name not in _WITH_FUNCTIONS:
        return [stage]
    found = next((one for one in _inside([*stage.args, *stage.kw.values()]) if _unpickles(one)), None)
    if found is not None:
        raise _refuse_stage(stage, f"the function {_name(found)}")
    decoder = _decoder(stage)
    if decoder is not None:
        return [RefusePickles(only=decoder.only), _fenced(stage)]
    if name == _FILTERS + "_decode":
        only = stage.kw.get("only")
        return [RefusePickles(only=only.split() if isinstance(only, str) else only), _fenced(stage)]
    return [RefusePickles(by_pattern=stage), stage] if name == _FILTERS + "_xdecode" else [stage]


class RefusePickles:
    """A stage in front of a decoder: samples pass, until one has a member that would be unpickled.

    Args:
        only: the members that the decoder looks at; None: all.
        by_pattern: an ``xdecode`` stage, which chooses a decoder by its own rules.
    """

    def __init__(self, *, only: Iterable[str] | None = None, by_pattern: Any = None) -> None:
        self._only = None if only is None else frozenset(only)
        self._by_pattern = by_pattern

    def __call__(self, source: Iterable[Any]) -> Iterator[Any]:
        """The samples, as they are."""
        known: set[tuple[Any, ...]] = set()
        for sample in source:
            if isinstance(sample, dict) and (names := tuple(sample)) not in known:
                for name in names:
                    if self._refuses(name):
                        raise _refuse_member(name, sample)
                if len(known) < 1000:  # samples of one dataset are alike
                    known.add(names)
            yield sample

    def _refuses(self, name: Any) -> bool:
        if not isinstance(name, str) or name.startswith("__") or (self._only is not None and name not in self._only):
            return False
        if self._by_pattern is not None:
            return _unpickles(_chosen(self._by_pattern, name))
        # Any part of it: "x.pkl.gz" is unpacked, and then it is "x.pkl".
        return not pickled().isdisjoint(name.lower().split("."))


def _chosen(stage: Any, member: str) -> Any:
    """The decoder of an ``xdecode`` stage for a member."""
    filters: Any = sys.modules["webdataset.filters"]
    own = dict(stage.kw)
    own.pop("must_decode", None)
    decoders = [*own.pop("defaults", filters.default_decoders), *stage.args]
    return filters.find_decoder([*decoders, *((f"*.{ending}", function) for ending, function in own.items())], member)


def pickled() -> frozenset[str]:
    """The endings that this version of webdataset, with its settings, unpickles."""
    autodecode: Any = sys.modules.get("webdataset.autodecode")
    safe = {"pt", "pth"} if getattr(autodecode, "pytorch_weights_only", False) else set()
    return PICKLED & {"pyd", *getattr(autodecode, "decoders", PICKLED)} - safe


class _Fenced:
    """webdataset's ``basichandlers``, but for members that it would unpickle, under whatever name they came."""

    def __init__(self, handler: Callable[[str, bytes], Any]) -> None:
        self._handler = handler

    def __call__(self, key: str, data: bytes) -> Any:
        ending = key.rpartition(".")[2].lower()
        if ending in PICKLED and ending in pickled():  # the former is quick to ask, and holds for nearly no member
            raise _refuse_member(key.lstrip("."), {})
        return self._handler(key, data)


def _fenced(stage: Any) -> Any:
    """A copy of a decoding stage whose basic handlers are fenced."""
    stage, decoder = copy(stage), _decoder(stage)
    if decoder is not None:
        decoder = copy(decoder)
        decoder.handlers = _fence(decoder.handlers)
        stage.args, stage.kw = tuple(decoder if _is_decoder(a) else a for a in stage.args), dict(stage.kw)
        stage.kw.update({name: decoder for name, value in stage.kw.items() if _is_decoder(value)})
    elif stage_name(stage) == _FILTERS + "_decode":
        autodecode: Any = sys.modules["webdataset.autodecode"]
        post = stage.kw.get("post")
        stage.kw = {**stage.kw, "post": _fence(autodecode.default_post_handlers if post is None else post)}
    return stage


def _fence(handlers: Iterable[Any]) -> list[Any]:
    return [_Fenced(one) if _name(one) == "webdataset.autodecode.basichandlers" else one for one in handlers]


def _decoder(stage: Any) -> Any:
    """The ``autodecode.Decoder`` that a ``map`` stage calls, if it is one."""
    if stage_name(stage) != _FILTERS + "_map":
        return None
    return next((value for value in (*stage.args, *stage.kw.values()) if _is_decoder(value)), None)


def _is_decoder(value: Any) -> bool:
    return _is_a(value, "webdataset.autodecode.Decoder")


def is_pipeline(data: Any) -> bool:
    """Whether this is a pipeline of webdataset's."""
    return _is_a(data, "webdataset.pipeline.DataPipeline")


def is_mix(data: Any) -> bool:
    """Whether this is a mix of webdataset's."""
    return _is_a(data, "webdataset.mix.RandomMix", "webdataset.mix.RoundRobin")


def _is_a(value: Any, *names: str) -> bool:
    return any(_name(kind) in names for kind in type(value).__mro__)


def _inside(values: Iterable[Any]) -> Iterator[Any]:
    """The functions among the arguments of a stage, and those inside of partials, decoders and lists."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _inside(value)
        elif _is_decoder(value):
            yield from _inside(value.handlers)
        elif isinstance(value, partial):
            yield from _inside([value.func, *value.args, *value.keywords.values()])
        elif callable(value):
            yield value


def _unpickles(function: Any) -> bool:
    return _name(function) in _UNPICKLES


def _name(function: Any) -> str:
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"


def _refuse_member(name: str, sample: dict[str, Any]) -> SourceError:
    key, url = sample.get("__key__"), sample.get("__url__")
    where = (f" of sample {key!r}" if key else "") + (f" in {location(url)}" if isinstance(url, str) else "")
    return SourceError(
        "A member of this WebDataset would be unpickled, which runs whatever code was put into it.",
        found=f"the member {name!r}{where}, and a decoder that unpickles it",
        expected="members that are data: .json, .txt, .npy, .cls, images …",
        do="write it as such, or leave it undecoded (decode(only=...), select_files=...); if you would let whoever "
        "wrote these shards run code on this machine: WeightedStream(trust_pickles(dataset), ...)",
    )


def _refuse_stage(stage: Any, found: str) -> SourceError:
    return SourceError(
        "A stage of this WebDataset unpickles, which runs whatever code was put into the data.",
        found=f"{stage_name(stage)} with {found}",
        expected="decoders of data: json, numpy (allow_pickle=False), text, images …",
        do="use another; if you would let whoever wrote these shards run code on this machine: "
        "WeightedStream(trust_pickles(dataset), ...)",
    )
