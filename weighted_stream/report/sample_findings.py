"""What a run has to say of single samples, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from weighted_stream.report.findings import Finding
from weighted_stream.report.ledger import Account
from weighted_stream.report.shown import visible
from weighted_stream.report.table import Listing
from weighted_stream.report.texts import Read

_SNIPPET = 90


def ends(lists: Sequence[Listing], account: Account, read: Read) -> Finding:
    """Which single samples counted most and least."""
    question = "Which samples counted most and least?"
    found = [(some.key, int(some.ids[0])) for some in lists if some.key in ("up", "down") and len(some.ids)]
    if len(found) < 2:
        return Finding(question, "Not known", "No sample has a weight.")
    words = []
    for word, (_, key) in zip(("Most", "Least"), found, strict=True):
        weight = float(account.weight[np.searchsorted(account.ids, key)])
        text = read.texts.get(key)
        said = f"“{visible(' '.join(text.split()), _SNIPPET)}”" if text is not None else "text not read (--data)"
        words.append((weight, f"{word}, with a mean weight of {weight:.2f}: {said} (id {key})"))
    return Finding(question, f"From {words[1][0]:.2f} to {words[0][0]:.2f}", ". ".join(word for _, word in words))


def repeats(account: Account, read: Read, times: Mapping[int, int]) -> list[Finding]:
    """How many samples are repeats of others, and what they weigh."""
    question = "Are there repeats?"
    if not len(read.ids):
        return []
    among = f"all {len(read.ids):,} texts" if read.whole else f"{len(read.ids):,} texts that were read"
    if not times:
        return [Finding(question, "No", f"No text occurs twice among {among}.", "good")]
    place = np.searchsorted(account.ids, read.ids).clip(max=len(account.ids) - 1)
    weight = np.where(account.ids[place] == read.ids, account.weight[place], np.nan)
    often = np.isin(read.ids, np.fromiter(times, np.int64, len(times)))
    extra = len(times) - len(np.unique(read.hashes[often]))
    detail = f"Among {among}, {len(times):,} share their text with another; the most frequent one occurs "
    detail += f"{max(times.values()):,} times."
    if np.isfinite(weight[often]).any() and np.isfinite(weight[~often]).any():
        detail += f" Their mean weight is {np.nanmean(weight[often]):.2f}, that of the others "
        detail += f"{np.nanmean(weight[~often]):.2f}."
    return [Finding(question, f"{extra / len(read.ids):.0%} of the texts repeat another", detail)]
