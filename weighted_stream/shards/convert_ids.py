"""Whether the ids that a conversion keeps differ: looked at in eight bytes a sample, and shown where they do not."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weighted_stream.errors import SampleIdError
from weighted_stream.shards.blocks import Input
from weighted_stream.sources.ids import check_id

MOST = 50_000_000
"""So many ids are compared, in 400 MB; those of the samples after them are not."""

_FIRST = 1 << 16


class KeptIds:
    """Compares ids as a stream would have them: strings by their hash, as two of one hash share a record, too.

    They are looked at whenever there are twice as many, so that nobody waits for the end of a long conversion to hear
    what its beginning shows.

    Args:
        opened: the samples, read again to say where two of one id are.
        column: of the ids.
        refuse: whether such samples are an error.

    Attributes:
        compared: of how many samples, from the first on.
        repeated: the first id that came again, and where; "" as long as there is none.
    """

    def __init__(self, opened: Input, column: str, refuse: bool) -> None:
        self._opened, self._column, self._refuse = opened, column, refuse
        self._ids, self._next, self._goes_on = array("q"), min(_FIRST, MOST), True
        self.compared, self.repeated = 0, ""

    def add(self, number: int) -> None:
        """The id of the next sample.

        Raises:
            SampleIdError: if it is found that two samples have one id, and that is refused.
        """
        if not self._goes_on:
            return
        self._ids.append(number)
        if len(self._ids) == self._next:
            self._compare()
            self._next = min(2 * self._next, MOST)

    def end(self) -> None:
        """There are no more.

        Raises:
            SampleIdError: as `add`.
        """
        if self._goes_on and self._ids:
            self._compare()

    def _compare(self) -> None:
        ids = np.frombuffer(self._ids, np.int64)
        ids.sort()  # in place: their order is not asked for
        repeated = np.unique(ids[1:][ids[1:] == ids[:-1]])
        del ids  # the array cannot grow while somebody looks into it
        self.compared = len(self._ids)
        if len(repeated) or self.compared == MOST:
            self._goes_on, self._ids = False, array("q")
        if not len(repeated):
            return
        self.repeated = self._where(repeated)
        if self._refuse:
            raise SampleIdError(
                f"Two samples have the same id in column {self._column!r}, so they would share a record.",
                found=self.repeated,
                expected="another id in each sample",
                do="name a column that is unique, or convert without --id: samples are then known by their place",
            )

    def _where(self, repeated: NDArray[np.int64]) -> str:
        """The first of these ids that comes again, and its first two places."""
        seen = np.zeros(len(repeated), np.bool_)
        for _, number, _ in self._read():
            at = bisect_left(repeated, number)
            if at < len(repeated) and repeated[at] == number:
                if seen[at]:
                    break
                seen[at] = True
        found = (f"{value!r:.100} in {place}" for value, other, place in self._read() if other == number)
        return " and ".join(islice(found, 2))

    def _read(self) -> Iterator[tuple[Any, int, str]]:
        """Value, id and place of each sample."""
        for block in self._opened.blocks():
            for at, row in enumerate(block.rows, block.start):
                value = row.get(self._column)
                yield value, check_id(value, "a column"), f"sample {at} of {block.file}"
