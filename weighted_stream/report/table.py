"""The table of samples: which of them are shown, and what of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from weighted_stream.report.charts import NAME
from weighted_stream.report.hints import (
    MAYBE_MISLABELLED,
    NEVER_LEARNED,
    REPEATED,
    VISITS,
    maybe_mislabelled,
    never_learned,
)
from weighted_stream.report.ledger import Account
from weighted_stream.report.run import Run
from weighted_stream.report.shown import numbers, visible
from weighted_stream.report.texts import Read

Ids = NDArray[np.int64]

LISTED = 100
"""Samples of a list, at most."""


class Listing(NamedTuple):
    """Samples that belong together.

    Attributes:
        key: what the page calls it.
        title: what people call it.
        rule: what puts a sample there.
        ids: of them, in their order.
    """

    key: str
    title: str
    rule: str
    ids: Ids


def listings(run: Run, account: Account, most: int = LISTED) -> list[Listing]:
    """The lists of one run."""
    kind = "mean of its weights" if run.course is not None else "last weight (there is no journal with the others)"
    known = np.flatnonzero(np.isfinite(account.weight))
    up = known[np.argsort(-account.weight[known], kind="stable")]
    down = known[np.argsort(account.weight[known], kind="stable")]
    found = [
        Listing("up", "pushed up most", f"The highest {kind}.", account.ids[up[:most]]),
        Listing("down", "pushed down most", f"The lowest {kind}.", account.ids[down[:most]]),
    ]
    if run.course is not None:
        once = "" if (account.visits >= VISITS).any() else " No sample of this run has two, so nothing can be said."
        never, wrong = never_learned(account, most), maybe_mislabelled(account, most)
        found += [
            Listing("never", "never learned", NEVER_LEARNED + once, account.ids[never]),
            Listing("mislabelled", "maybe mislabelled", MAYBE_MISLABELLED + once, account.ids[wrong]),
        ]
    broken = np.array([number for number, _ in run.census.broken[:most]], np.int64)
    return [*found, Listing("broken", "not finite", "Samples that had a loss which was NaN or infinite.", broken)]


def repeats_listing(ids: Ids) -> Listing:
    """The list of repeated samples."""
    return Listing("repeated", "repeated", REPEATED, ids)


def table(
    run: Run,
    account: Account,
    ids: Ids,
    lists: list[Listing],
    read: Read,
    times: Mapping[int, int],
    characters: int,
    other: tuple[Run, Account] | None,
) -> dict[str, Any]:
    """The samples that are shown, by column.

    Args:
        run: whose they are.
        account: of more than these.
        ids: (n,) of these.
        lists: that they are in.
        read: their texts.
        times: how often the text of one occurs, by id.
        characters: of a text, at most.
        other: a run to compare with.
    """
    fields = run.store.get(ids)
    place = np.searchsorted(account.ids, ids).clip(max=max(0, len(account.ids) - 1))
    mine = _taken(account, place, ids)
    shards, rows = run.places.of(ids)
    groups = fields["group"]
    texts = [read.texts.get(key) for key in ids.tolist()]
    columns: dict[str, Any] = {
        "id": [str(key) for key in ids.tolist()],
        "group": [
            visible(run.groups[group], NAME) if 0 <= group < len(run.groups) else None for group in groups.tolist()
        ],
        "shard": [
            visible(run.places.names[shard], NAME) if shard >= 0 else _shard(read.shards.get(key))
            for shard, key in zip(shards.tolist(), ids.tolist(), strict=True)
        ],
        "row": [row if row >= 0 else None for row in rows.tolist()],
        "weight": numbers(mine.weight),
        "first": numbers(mine.first),
        "loss": numbers(mine.last),
        "similarity": numbers(fields["similarity"]),
        "visits": fields["visits"].tolist(),
        "step": [step if step >= 0 else None for step in fields["last_step"].tolist()],
        "bad": fields["nonfinite"].tolist(),
        "times": [times.get(key, 1) for key in ids.tolist()],
        "length": [None if text is None else len(text) for text in texts],
        "text": [None if text is None else visible(text, characters) for text in texts],
    }
    if other is not None:
        theirs = _taken(other[1], place, ids)
        columns |= {"weight2": numbers(theirs.weight), "loss2": numbers(theirs.last)}
    at = {key: position for position, key in enumerate(ids.tolist())}
    return {
        "columns": columns,
        "lists": [
            {
                "key": some.key,
                "title": some.title,
                "rule": some.rule,
                "rows": [at[key] for key in some.ids.tolist() if key in at],
            }
            for some in lists
        ],
    }


def _shard(name: str | None) -> str | None:
    return None if name is None else visible(name, NAME)


def _taken(account: Account, place: Ids, ids: Ids) -> Account:
    """The account of some samples; what is not known of one is NaN or 0."""
    if not len(account.ids):
        nothing, none = np.full(len(ids), np.nan), np.zeros(len(ids), np.int64)
        return Account(ids, nothing, none, none, nothing, nothing, nothing, nothing, none, nothing)
    known = account.ids[place] == ids
    floats = {
        name: np.where(known, values[place], np.nan) for name, values in account._asdict().items() if name != "ids"
    }
    return Account(ids=ids, **floats)
