"""Everything that a page shows, as plain values: of one run or two, and of the texts they were trained on."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weighted_stream._version import __version__
from weighted_stream.errors import SourceError, StoreMismatchError
from weighted_stream.report.charts import charts
from weighted_stream.report.comparison import Comparison, compare, described, drawn
from weighted_stream.report.findings import findings
from weighted_stream.report.hints import repeated
from weighted_stream.report.ledger import Account
from weighted_stream.report.notes import notes
from weighted_stream.report.run import TRACKED, Run
from weighted_stream.report.sample_findings import ends, repeats
from weighted_stream.report.shown import visible
from weighted_stream.report.table import LISTED, Listing, listings, repeats_listing, table
from weighted_stream.report.texts import Read, Texts, name_of
from weighted_stream.sources.base import Fingerprint

Ids = NDArray[np.int64]

_BY_COLUMN = re.compile(r"by column '(.*)'$")


@dataclass(frozen=True)
class Options:
    """What a report is to show.

    Attributes:
        data: where the texts are; None: there are none in the page.
        id: the column of the ids in them; None: what the store knows.
        text: the field of the text.
        samples: in the table, at most.
        characters: of each text, at most.
        tracked: samples that are looked at one by one, at most.
    """

    data: str | PathLike[str] | None = None
    id: str | None = None
    text: str = "text"
    samples: int = 2000
    characters: int = 600
    tracked: int = TRACKED


def build(
    store: str | PathLike[str],
    other: str | PathLike[str] | None = None,
    options: Options | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> dict[str, Any]:
    """Read stores and data.

    Args:
        store: the directory of a store.
        other: that of another run over the same data, to compare with.
        options: see `Options`.
        progress: is told what is being done.

    Returns:
        What the page shows: JSON values.

    Raises:
        StoreError, StoreMismatchError: if a store cannot be read.
        SourceError: if there are no data of a kind that is known.
    """
    options = options or Options()
    progress("reading the store")
    with Run(store, options.tracked) as run:
        if other is None:
            return _built(run, None, options, progress)
        progress("reading the other store")
        with Run(other, options.tracked) as second:
            _check_one_dataset(run, second)
            return _built(run, second, options, progress)


def _built(run: Run, second: Run | None, options: Options, progress: Callable[[str], None]) -> dict[str, Any]:
    texts = None if options.data is None else _texts(run, options)
    progress("going through the samples")
    ids = run.census.ids if second is None else np.union1d(run.census.ids, second.census.ids)
    account = run.account(ids)
    theirs = None if second is None else second.account(ids)
    compared = None if theirs is None else compare(account, theirs, LISTED // 2)
    lists = listings(run, _own(account, run, second))
    if compared is not None:
        lists += [
            Listing(
                "weights", "weights differ", "The widest gap between the weights of the two.", ids[compared.by_weight]
            ),
            Listing("losses", "losses differ", "The widest gap between their last losses.", ids[compared.by_loss]),
        ]
    others = [] if second is None or theirs is None else listings(second, _own(theirs, second, run))[:2]
    shown = _shown([*lists, *others], run, options.samples)
    read = Read()
    times: dict[int, int] = {}
    if texts is not None:
        progress("reading texts")
        read, repeats, times = _read(texts, shown, run)
        lists.append(repeats)
        shown = np.unique(np.concatenate([shown, repeats.ids]))
    pair = None if second is None or theirs is None else (second, theirs)
    rows = table(run, account, shown, lists, read, times, options.characters, pair)
    names = _names(run, second)
    value: dict[str, Any] = {
        "version": __version__,
        "runs": [_run(run, names[0], lists, account, read, times)],
        "samples": rows,
        "data": None if options.data is None else visible(str(options.data), 200),
        "notes": notes(run, second, read, len(shown), texts is not None),
        "comparison": None,
    }
    if second is not None and theirs is not None and compared is not None:
        value["runs"].append(_run(second, names[1], others, theirs, read, times))
        value["comparison"] = _compared(compared, account, theirs, names, run.census.whole and second.census.whole)
    return value


def _check_one_dataset(run: Run, second: Run) -> None:
    if run.fingerprint is None or second.fingerprint is None:
        return
    reason = Fingerprint.from_json(run.fingerprint).conflict(Fingerprint.from_json(second.fingerprint))
    if reason is not None:
        raise StoreMismatchError(
            "The two stores are of different datasets: their samples cannot be compared.",
            found=f"{second.path}: {reason}",
            expected=f"the dataset of {run.path}",
            do="compare runs over the same data",
        )


def _own(account: Account, run: Run, second: Run | None) -> Account:
    """Only the samples that this run knows."""
    if second is None:
        return account
    known = run.store.get(account.ids)["visits"] > 0
    return Account(**{name: values[known] for name, values in account._asdict().items()})


def _texts(run: Run, options: Options) -> Texts:
    name = "" if run.fingerprint is None else str(run.fingerprint.get("name", ""))
    kind = None if run.fingerprint is None else str(run.fingerprint.get("kind", ""))
    column = _BY_COLUMN.search(name)
    assert options.data is not None
    if options.id is None and name.endswith(" by id_fn"):
        raise SourceError(
            "The ids of this run come from a function, so nobody can tell which sample of the data is which.",
            found="a stream that was made with id_fn= a function",
            expected="the column of the data that has those ids",
            do="name it: --id COLUMN; or leave --data out, and the report shows ids without texts",
        )
    size = None if run.fingerprint is None else run.fingerprint.get("size")
    return Texts(options.data, kind, options.id or (column.group(1) if column else None), options.text, size)


def _shown(lists: list[Listing], run: Run, most: int) -> Ids:
    """The ids of the table: those of all lists, and others drawn at random until there are enough."""
    listed = np.unique(np.concatenate([some.ids for some in lists]))
    drawn_ids = run.census.drawn.get("id", np.empty(0, np.int64))
    more = np.setdiff1d(drawn_ids, listed)
    room = max(0, most - len(listed))
    if len(more) > room:
        more = np.random.default_rng(1).choice(more, room, replace=False)
    return np.union1d(listed, more)


def _read(texts: Texts, shown: Ids, run: Run) -> tuple[Read, Listing, dict[int, int]]:
    read = texts.read(shown)
    places, counts = repeated(read.hashes)
    times = dict(zip(read.ids[places].tolist(), counts.tolist(), strict=True))
    # Two of each text are enough to show that they are the same.
    first = np.flatnonzero(np.r_[True, read.hashes[places][1:] != read.hashes[places][:-1]]) if len(places) else places
    two = np.unique(np.concatenate([first, first + 1]))[:LISTED] if len(places) else places
    ids = read.ids[places[two]]
    ids = ids[run.store.get(ids)["visits"] > 0]  # of the others the run knows nothing
    unread = np.setdiff1d(ids, np.fromiter(read.texts, np.int64, len(read.texts)))
    if len(unread):
        more = texts.read(unread)
        read.texts |= more.texts
        read.shards |= more.shards
    return read, repeats_listing(ids), times


def _run(
    run: Run, name: str, lists: list[Listing], account: Account, read: Read, times: dict[int, int]
) -> dict[str, Any]:
    answers = findings(run)
    if run.census.samples:
        answers[3:3] = [ends(lists, account, read), *repeats(account, read, times)]
    course = run.course
    return {
        "name": visible(name, 60),
        "path": visible(str(run.path), 200),
        "answers": [finding._asdict() for finding in answers],
        "facts": {
            "samples": run.census.samples,
            "trained on": run.census.visited,
            "visits": int(run.stats["visits"]),
            "steps": None if course is None else course.intervals.last + 1,
        },
        **charts(run),
    }


def _names(run: Run, second: Run | None) -> tuple[str, str]:
    if second is None:
        return name_of(run.path), ""
    one, other = name_of(run.path), name_of(second.path)
    return (one, other) if one != other else (str(run.path), str(second.path))


def _compared(
    found: Comparison, account: Account, theirs: Account, names: tuple[str, str], whole: bool
) -> dict[str, Any]:
    words = described(found, account, theirs, (visible(names[0], 60), visible(names[1], 60)), whole)
    return {"answers": [finding._asdict() for finding in words], "points": drawn(found, account, theirs)}
