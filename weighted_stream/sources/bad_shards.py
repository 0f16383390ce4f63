"""What becomes of a shard that cannot be read: the run ends there, or goes on without it and says so."""

from __future__ import annotations

import os
import warnings
import zlib
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any, Literal, TypeAlias

from weighted_stream.errors import SourceError, WeightedStreamError
from weighted_stream.sources.board import tell
from weighted_stream.sources.unreadable import without_credentials

OnBadShard: TypeAlias = "Literal['raise', 'skip'] | int"
"""``"raise"``; ``"skip"``; or how many bad shards are skipped before the next one raises."""

NAMED = 8
"""So many shards are named in an error."""

SAID = 3
"""So many samples with other fields than their neighbours are named: a dataset may be made that way."""

END = 1 << 14
"""Bytes at either end of a shard that tell it from others."""


class Policy:
    """What a reader does with a shard that it cannot read, in a worker or in the main process.

    Args:
        on_bad_shard: see `WeightedStream`.

    Attributes:
        skips: whether it goes on behind one.
        limit: how many are skipped at most; None: any number.
        met: the shards that were left out in this process, and why.
        told: the shards whose ends the main process was told of, as short sums.

    Raises:
        SourceError: for a policy that is none.

    Example:
        >>> Policy("skip").skips, Policy(3).limit, Policy("raise").skips
        (True, 3, False)
    """

    def __init__(self, on_bad_shard: OnBadShard = "raise") -> None:
        number = isinstance(on_bad_shard, int) and not isinstance(on_bad_shard, bool) and on_bad_shard >= 0
        if not number and on_bad_shard not in ("raise", "skip"):
            raise SourceError(
                "on_bad_shard says nothing that can be done.",
                found=repr(on_bad_shard),
                expected='"raise", "skip", or how many may be skipped',
                do='on_bad_shard="skip", or a number of at least 0',
            )
        self.limit = None if on_bad_shard == "skip" else 0 if on_bad_shard == "raise" else int(on_bad_shard)
        self.skips = self.limit is None or self.limit > 0
        self.met: dict[str, str] = {}
        self.told: set[int] = set()

    def meet(self, shard: str, error: Exception) -> None:
        """This shard cannot be read. Returns where it is to be left out; then the main process is told, once.

        Raises:
            SourceError: the error itself where it is not to be left out, or one that names all if they are too many.
        """
        if not self.skips:
            raise error
        if shard in self.met:
            return
        self.met[shard] = why = reason(error)
        if not tell({"bad": shard, "why": why}):  # a DataLoader of the user's own: nobody else will say it
            warnings.warn(left_out(shard, why), RuntimeWarning, stacklevel=3)
            if self.limit is not None and len(self.met) > self.limit:
                raise too_many(self.met, self.limit) from error

    def tell_end(self, shard: str, ends: str, name: str = "") -> None:
        """Tell the main process of a shard that was read to its end: once, as a board keeps all that is written on it.

        Args:
            shard: where it lies.
            ends: what its ends look like.
            name: as it counts in ids, where nobody knows all shards before.
        """
        mark = _mark(shard, ends)
        if mark not in self.told and tell({"shard": shard, "ends": ends, "name": name}):
            self.told.add(mark)


class BadShards:
    """What the main process knows of the shards that its readers met.

    Args:
        policy: of the stream.
        left_out: shards that were left out before.

    Attributes:
        bad: the shards that were left out, and why, since the stream was made.
        lacking: how many samples of them were not delivered, as far as that is known.
        lacking_now: the same, of the epoch that runs.
    """

    def __init__(self, policy: Policy, left_out: Mapping[str, str]) -> None:
        self.policy = policy
        self.bad = dict(left_out)
        self._before = len(left_out)
        self.lacking = self.lacking_now = 0
        self._ends: dict[str, str] = {}
        self._named: dict[str, tuple[str, str]] = {}
        self._said: set[str] = set()

    def begin_epoch(self) -> None:
        """Count anew what an epoch lacks."""
        self.lacking_now = 0

    def take(self, notes: Iterable[Mapping[str, Any]]) -> None:
        """What readers wrote on a loader's board: it is said as a warning, once.

        Raises:
            SourceError: for more bad shards than may be, naming them; for two shards of one name.
        """
        for note in notes:
            if "bad" in note:
                self._add(note["bad"], note["why"])
            elif "ends" in note:
                self.policy.told.add(_mark(note["shard"], note["ends"]))  # for workers that are yet to come
                self._keep_apart(note["name"], note["shard"], note["ends"])
                self._compare(note["shard"], note["ends"])
            elif "lacks" in note:
                self.lacking += note["lacks"]
                self.lacking_now += note["lacks"]
            elif "odd" in note and len(self._said) < SAID and note["odd"] not in self._said:
                self._said.add(note["odd"])
                more = "" if len(self._said) < SAID else " (Further ones are not named.)"
                warnings.warn(note["odd"] + more, RuntimeWarning, stacklevel=4)

    def figures(self) -> dict[str, float]:
        """``bad_shards`` and ``samples_lacking``, to log; empty where no shard is left out."""
        if not self.policy.skips and not self.bad:
            return {}
        return {"bad_shards": float(len(self.bad)), "samples_lacking": float(self.lacking)}

    def _add(self, shard: str, why: str) -> None:
        if shard in self.bad:
            return
        self.bad[shard] = why
        limit = self.policy.limit
        if limit is not None and len(self.bad) - self._before > limit:
            raise too_many(self.bad, limit)
        warnings.warn(left_out(shard, why), RuntimeWarning, stacklevel=5)

    def _keep_apart(self, name: str, shard: str, ends: str) -> None:
        if not name:
            return
        other, other_ends = self._named.setdefault(name, (shard, ends))
        if other == shard:
            self._named[name] = shard, ends
        elif other_ends != ends:  # else it is the same shard elsewhere, or a copy
            raise same_name(shard, other)

    def _compare(self, shard: str, ends: str) -> None:
        other = self._ends.setdefault(ends, shard)
        if other == shard:
            return
        self._ends[ends] = shard
        warnings.warn(
            f"Shard {shard} looks like a copy of {other}: as many bytes, and the same ones at either end. Its samples "
            "have ids of their own, so each of them counts twice. Delete one of the two if that is not meant.",
            RuntimeWarning,
            stacklevel=5,
        )


def _mark(shard: str, ends: str) -> int:
    return zlib.crc32(f"{shard} {ends}".encode(errors="backslashreplace"))


def same_name(one: str, other: str) -> SourceError:
    """The error for two shards, at these places, that have one name."""
    return SourceError(
        "Two shards have the same name, so their samples would share ids.",
        found=f"{one} and {other}",
        expected="different file names",
        do="rename one, begin the pipeline with a list of all urls (SimpleShardList), or pass id_fn=",
    )


def left_out(shard: str, why: str) -> str:
    """The warning for a shard that is skipped."""
    return f"Shard {shard} cannot be read, and is left out of this epoch from there on: {why}"


def reason(error: Exception) -> str:
    """Why, in one line, without credentials."""
    if isinstance(error, WeightedStreamError):
        return without_credentials(f"{error.problem} Found: {error.found}" if error.do else error.problem)
    return without_credentials(f"{type(error).__name__}: {error}"[:500])


def too_many(bad: Mapping[str, str], limit: int) -> SourceError:
    """The error for more bad shards than may be."""
    named = "; ".join(f"{shard} ({why})" for shard, why in list(bad.items())[:NAMED])
    return SourceError(
        f"More shards cannot be read than on_bad_shard={limit} lets pass.",
        found=named + (f", and {len(bad) - NAMED} more" if len(bad) > NAMED else ""),
        expected=f"at most {limit}",
        do='mend or remove them, or let more pass (on_bad_shard="skip": any number); what was weighed is in the store',
    )


def warn_of_repeats(names: Collection[str], what: str) -> None:
    """Say which shards are listed more than once.

    Args:
        names: as they are listed.
        what: lists them.
    """
    seen: set[str] = set()
    repeated = sorted({name for name in names if name in seen or seen.add(name)})  # type: ignore[func-returns-value]
    if repeated:
        more = f" and {len(repeated) - NAMED} more" if len(repeated) > NAMED else ""
        warnings.warn(
            f"Shards are listed more than once in {what}: {', '.join(repeated[:NAMED])}{more}. Each of their samples "
            "comes as often in an epoch, and has one record. List each shard once if that is not meant.",
            RuntimeWarning,
            stacklevel=3,
        )


def tell_ends(policy: Policy, shard: str, path: str) -> None:
    """Tell the main process what the ends of a local shard look like, by which it knows copies."""
    with suppress(OSError), open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        first = file.read(END)
        file.seek(max(0, size - END))
        policy.tell_end(shard, ends(size, first, file.read(END)))


def ends(size: int, first: bytes, last: bytes) -> str:
    """What a shard's size and its first and last bytes look like."""
    return f"{size}-{zlib.crc32(first):08x}-{zlib.crc32(last):08x}"
