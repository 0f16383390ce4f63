"""A WebDataset pipeline as we read it: a copy that opens ``s3://``, and unpickles nothing."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from typing import Any

from weighted_stream.sources.tracking import stage_name
from weighted_stream.sources.webdataset_pickles import is_mix, is_pipeline, refusing, trusts_pickles
from weighted_stream.sources.webdataset_s3 import OPENS, OpensS3


def prepared(data: Any, trusted: bool = False) -> Any:
    """A copy of a pipeline, or of a mix of them, and of those inside; anything else as it is.

    Args:
        data: it is not changed.
        trusted: `trust_pickles` was said of what it is a part of.

    Raises:
        SourceError: for a stage that could do nothing but unpickle.
    """
    result = data
    if is_mix(data):
        result = copy(data)
        result.datasets = [prepared(part, trusted or trusts_pickles(data)) for part in data.datasets]
    elif is_pipeline(data):
        result = copy(data)
        result.pipeline = prepared_stages(data.pipeline, trusted or trusts_pickles(data))
    return result


def prepared_stages(stages: Iterable[Any], trusted: bool = False) -> list[Any]:
    """Stages of a pipeline, with those in front of them that they need.

    Raises:
        SourceError: for a stage that could do nothing but unpickle.
    """
    result: list[Any] = []
    for stage in stages:
        if stage_name(stage) in OPENS:
            result.append(OpensS3())
        stage = prepared(stage, trusted)
        result += [stage] if trusted else refusing(stage)
    return result
