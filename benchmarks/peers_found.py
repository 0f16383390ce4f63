"""Which peers are here, and how they are let in: nothing of theirs is in this repository.

DataFlex comes from the package index (``make bench-peers`` sets up an environment for it). InfoBatch is on no index: a
clone of its repository is used, if WEIGHTED_STREAM_INFOBATCH names its folder.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch.utils.data.dataloader import _BaseDataLoaderIter

INFOBATCH = "WEIGHTED_STREAM_INFOBATCH"


@lru_cache(maxsize=1)
def info_batch() -> Any:
    """InfoBatch's class; None if it is not here. Its change to torch's loaders is undone, see `patched`."""
    folder = os.environ.get(INFOBATCH)
    if folder is not None:
        if not (Path(folder) / "infobatch" / "__init__.py").is_file():
            raise SystemExit(f"peers: {INFOBATCH} names {folder}, which is no clone of InfoBatch's repository")
        sys.path.insert(0, folder)
    if importlib.util.find_spec("infobatch") is None:
        return None
    before = _BaseDataLoaderIter.__next__
    try:
        module = importlib.import_module("infobatch")
        module.theirs = _BaseDataLoaderIter.__next__
    finally:
        _BaseDataLoaderIter.__next__ = before  # type: ignore[method-assign]
    return module.InfoBatch


@contextlib.contextmanager
def patched() -> Iterator[None]:
    """Torch's loaders as importing InfoBatch leaves them."""
    info_batch()
    before = _BaseDataLoaderIter.__next__
    _BaseDataLoaderIter.__next__ = sys.modules["infobatch"].theirs  # type: ignore[method-assign]
    try:
        yield
    finally:
        _BaseDataLoaderIter.__next__ = before  # type: ignore[method-assign]


@lru_cache(maxsize=1)
def data_flex() -> Any:
    """DataFlex's registry of weighters; None if it is not here. What it logs goes nowhere, but it is written."""
    if importlib.util.find_spec("dataflex") is None:
        return None
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    nowhere = Path(os.devnull).open("w")  # noqa: SIM115  # for as long as the process lives
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        root.handlers = []
        try:
            importlib.import_module("dataflex.train.weighter")
            logger = importlib.import_module("dataflex.utils.logging").logger
            for handler in root.handlers:  # it writes to both; the root's are for it alone
                logger.addHandler(handler)
            logger.propagate = False
            logger.setLevel(logging.INFO)
        finally:
            root.handlers, root.level = handlers, level
    return importlib.import_module("dataflex.core.registry").REGISTRY


@contextlib.contextmanager
def without_its_log() -> Iterator[None]:
    """DataFlex with its log switched off."""
    logger = importlib.import_module("dataflex.utils.logging").logger
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(logging.INFO)


def missing() -> list[str]:
    """What is not here, and what to do."""
    said = []
    if info_batch() is None:
        said.append(f"InfoBatch: left out; clone its repository and set {INFOBATCH} to the folder")
    if data_flex() is None:
        said.append("DataFlex: left out; `make bench-peers` sets up an environment that has it")
    if importlib.util.find_spec("transformers") is None:
        said.append("steps in a Trainer: left out; they need transformers (the extra 'hf')")
    return said
