"""What is in a folder of shards, in side files, or in a store: figures, and the samples at both ends."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from weighted_stream.errors import ScoringError, SourceError
from weighted_stream.shards.convert import receipt
from weighted_stream.shards.folder import ShardFolder, open_shards
from weighted_stream.shards.side_files import FOLDER, about, read_side_file, side_files
from weighted_stream.shards.summary import Extremes, Place, Summary
from weighted_stream.sources.s3 import is_s3
from weighted_stream.store import SharedStore, WeightStore
from weighted_stream.store.place import HEADER, MANIFEST
from weighted_stream.store.shared_address import is_address

FIELDS = ("weight", "similarity", "loss", "last_loss", "visits")
"""What a store remembers that has a distribution, the most telling first."""

_PATIENCE = 3600.0
_BY_COLUMN = re.compile(r"by column '(.*)'$")


@dataclass
class Inspection:
    """What was found.

    Attributes:
        kind: ``"shards"``, ``"scores"`` or ``"store"``.
        facts: counts and the like, in the order in which they should be read.
        distributions: by the name of the value.
        by: the value that the samples at both ends are chosen by.
        highest: samples with the highest values.
        lowest: samples with the lowest values.
        rows: what is known of these samples, by id.
        notes: what else should be said.
    """

    kind: str
    facts: dict[str, Any] = field(default_factory=dict)
    distributions: dict[str, Summary] = field(default_factory=dict)
    by: str = ""
    highest: list[Place] = field(default_factory=list)
    lowest: list[Place] = field(default_factory=list)
    rows: dict[int, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def inspect_path(
    path: str | PathLike[str],
    *,
    data: str | PathLike[str] | None = None,
    id: str | None = None,
    text: str = "text",
    by: str | None = None,
    top: int = 5,
    limit: int = 100_000,
    name: str = "weights",
    ca_file: str | PathLike[str] | None = None,
) -> Inspection:
    """Look into a folder of shards, a folder of side files (or one of them), or a store.

    Args:
        path: of it; of a shared store its address.
        data: the shards that scores or a store are about, for the samples themselves; None: those in whose folder the
            side files are.
        id: the column of the ids, where the stream is made with ``id_fn=`` of it; side files know.
        text: the field of the text.
        by: for a store, which value the samples at both ends are chosen by; None: the first there is of `FIELDS`.
        top: how many samples at each end.
        limit: of shards without scores, measure the length of the first so many samples.
        name: of the shared store.
        ca_file: whom to trust with TLS, for an address ``rediss://…``; PEM. None: whom the system trusts.

    Raises:
        SourceError: if there is nothing of the kind, or shards cannot be read.
        ScoringError: for damaged side files.
        StoreError: for a damaged store.
    """
    if is_address(path):
        with SharedStore(str(path), name=name, ca_file=ca_file) as store:
            return _shared(store, data, id, by, top)
    if is_s3(path):
        return _shards(path, id, text, top, limit)
    path = Path(path)
    if (path / MANIFEST).is_file() and (path / HEADER).is_file():
        return _store(path, data, id, by, top)
    if _is_scores(path):
        return _scores(path, data, id, top)
    found = _shards(path, id, text, top, limit)
    if (path / FOLDER).is_dir():
        scored = _scores(path / FOLDER, data, id, top)
        found.facts |= {name: scored.facts[name] for name in ("scored by", "method", "scored samples")}
        found.distributions |= scored.distributions
        found.by, found.highest, found.lowest, found.rows = scored.by, scored.highest, scored.lowest, scored.rows
    return found


def _is_scores(path: Path) -> bool:
    if path.is_dir():
        file = next((file for file in sorted(path.glob("*.parquet"))), None)
    else:
        file = path if path.suffix == ".parquet" and path.is_file() else None
    try:
        return file is not None and about(file) is not None
    except ScoringError:
        return False  # reading it as a shard will tell what is wrong


def _scores(path: Path, data: str | PathLike[str] | None, id: str | None, top: int) -> Inspection:
    sides = side_files(path)
    first = sides[0]
    found = Inspection("scores", by="score")
    summary, extremes = Summary(), Extremes(top)
    for side in sides:
        ids, scores = read_side_file(side.path)
        summary.add(scores)
        extremes.add(ids, scores, side.shard)
    found.facts = {
        "shards": len(sides),
        "scored samples": summary.count,
        "scored by": first.identity.encoder,
        "method": first.identity.method,
        "target": first.identity.target,
        "ids": f"{first.dataset.kind} ({first.dataset.name})",
        "version": first.version,
    }
    if summary.count:
        found.distributions["score"] = summary
    found.highest, found.lowest = extremes.highest(), extremes.lowest()
    folder = path if path.is_dir() else path.parent
    beside = folder.parent if folder.name == FOLDER else None
    column = _BY_COLUMN.search(first.dataset.name)
    _look_up(found, data, id or (column.group(1) if column else None), beside)
    return found


def _store(path: Path, data: str | PathLike[str] | None, id: str | None, by: str | None, top: int) -> Inspection:
    with WeightStore(path, mode="r") as store:
        stats = store.stats()
        counts = ("samples", "visits", "scored", "unscored", "nonfinite")
        facts: dict[str, Any] = {name: int(stats[name]) for name in counts}
        facts |= {f"latest {name}": stats[name] for name in ("window", "ess", "weight_mean", "weight_cv")}
        return _records(store, facts, data, id, by, top)


def _shared(
    store: SharedStore, data: str | PathLike[str] | None, id: str | None, by: str | None, top: int
) -> Inspection:
    store.catch_up(_PATIENCE)
    facts = {"samples": 0, "visits": 0, "scored": 0, "nonfinite": 0}
    for _, fields in store.chunks():
        facts["samples"] += fields["visits"].size
        facts["visits"] += int(fields["visits"].sum())
        facts["scored"] += int(np.count_nonzero(~np.isnan(fields["similarity"])))
        facts["nonfinite"] += int(fields["nonfinite"].sum())
    if not facts["samples"]:
        raise SourceError(
            f"There is no shared store {store.name!r} at {store.url}, or nothing is in it.",
            found="no sample",
            expected="what trainers or scorers have sent",
            do="name another one with --name",
        )
    return _records(store, facts, data, id, by, top)


def _records(
    store: WeightStore,
    facts: dict[str, Any],
    data: str | PathLike[str] | None,
    id: str | None,
    by: str | None,
    top: int,
) -> Inspection:
    found = Inspection("store", facts)
    summaries = {name: Summary() for name in FIELDS}
    extremes = {name: Extremes(top) for name in FIELDS}
    for ids, fields in store.chunks():
        for name in FIELDS:
            values = fields[name].astype(np.float64)
            summaries[name].add(values)
            extremes[name].add(ids, values)
    found.distributions = {name: summary for name, summary in summaries.items() if summary.count}
    if by is not None and by not in found.distributions:
        raise SourceError(
            f"The store remembers no {by!r} of any sample.",
            found=", ".join(found.distributions) or "nothing",
            expected="one of these",
            do="name it with --by",
        )
    found.by = by or next(iter(found.distributions), "")
    if found.by:
        found.highest, found.lowest = extremes[found.by].highest(), extremes[found.by].lowest()
    _look_up(found, data, id)
    return found


def _shards(path: str | PathLike[str], id: str | None, text: str, top: int, limit: int) -> Inspection:
    opened = open_shards(path, id=id)
    found = Inspection("shards", by=f"characters of {text!r}")
    made = None if opened.root is None else receipt(opened.root)
    rows = [shard.size for shard in opened.shards if not shard.tar]
    found.facts = {"format": opened.kind, "shards": len(opened.shards)}
    if not any(shard.tar for shard in opened.shards):
        found.facts["samples"] = sum(size or 0 for size in rows)
        found.facts["samples per shard"] = f"{min(size or 0 for size in rows):,} to {max(size or 0 for size in rows):,}"
    elif made is not None:
        found.facts["samples"] = made.samples
    if made is not None:
        found.facts["converted from"] = made.source
    summary, extremes = Summary(), Extremes(top)
    ends: dict[int, Any] = {}
    read = 0
    for shard in opened.shards:
        for number, row in shard.read():
            if not read:
                found.facts["columns"] = {name: type(value).__name__ for name, value in row.items()}
            length = np.array([len(row[text]) if isinstance(row.get(text), (str, bytes)) else np.nan])
            summary.add(length)
            extremes.add(np.array([number]), length, shard.name)
            read += 1
            ends[number] = row
            if len(ends) > 1000:
                ends = _at_ends(ends, extremes)
            if read == limit:
                break
        if read == limit:
            found.notes.append(f"Measured over the first {read:,} samples (--limit).")
            break
    found.facts.setdefault("samples", read if read < limit else f"{read:,} or more")
    if not summary.count:
        found.notes.append(f"No sample has text in a field {text!r}; name it with --text.")
        return found
    found.distributions[found.by] = summary
    found.highest, found.lowest = extremes.highest(), extremes.lowest()
    found.rows = _at_ends(ends, extremes)
    return found


def _at_ends(rows: dict[int, Any], extremes: Extremes) -> dict[int, Any]:
    kept = {place.id for place in extremes.highest() + extremes.lowest()}
    return {number: row for number, row in rows.items() if number in kept}


def _look_up(found: Inspection, data: str | PathLike[str] | None, id: str | None, beside: Path | None = None) -> None:
    """Find the samples themselves: in ``data``, or else where they may well be, ``beside``."""
    places = found.highest + found.lowest
    if not places:
        return
    opened, why = None, ""
    if data is not None:
        opened = open_shards(data, id=id)
    elif beside is not None:
        try:
            opened = open_shards(beside, id=id)
        except SourceError as error:
            why = f" ({beside}: {error.problem.rstrip('.')})"
    if opened is None:
        found.notes.append(f"Where the samples are is not known{why}; name the shards with --data to see them.")
        return
    found.rows = find_rows(opened, places)
    missing = {place.id for place in places} - found.rows.keys()
    if missing:
        found.notes.append(f"{len(missing)} of these samples are not in {data or beside}.")


def find_rows(opened: ShardFolder, places: Sequence[Place] | Iterable[Place]) -> dict[int, Any]:
    """The samples at some places, by id, as far as the shards have them; no more shards are read than needed."""
    places = list(places)
    names = {place.shard for place in places}
    left = {place.id for place in places}
    rows: dict[int, Any] = {}
    for shard in opened.shards:
        if not left:
            break
        if None in names or shard.name in names:
            for number, row in shard.read(np.array(sorted(left), np.int64)):
                rows[number] = row
                left.discard(number)
    return rows
