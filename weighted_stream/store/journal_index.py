"""The index of a segment of the journal: 128 bytes for each entry, written after it. An entry counts from then on.

It says where the entry is, how it looks (checksums), and what the store's counters were before it.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from weighted_stream.store.record import Tally

LINE_BYTES = 128

# position, offset, length, rows, given, first and last step, visits ... , losses and weights ever, checksums.
_FORM = struct.Struct("<QQQIIii5qqqII20x")
_CHECK = struct.Struct("<I")
_PLAIN = LINE_BYTES - _CHECK.size
_BITS = {"step": 1, "loss": 2, "weight": 4, "similarity": 8, "group": 16}


class Line(NamedTuple):
    """What the index says of an entry.

    Attributes:
        position: its number, from 1.
        offset, length: where it is in the segment, in bytes.
        rows: samples.
        given: which columns it has, see `has`.
        first_step, last_step: the lowest and the highest step in it; -1 if it has none.
        tally: the store's counters before it.
        pushed: how many losses and weights there had ever been before it.
        checksum: of its bytes, CRC-32.
        chain: a checksum of this entry and all before it, which tells one past from another.
    """

    position: int
    offset: int
    length: int
    rows: int
    given: int
    first_step: int
    last_step: int
    tally: Tally
    pushed: tuple[int, int]
    checksum: int
    chain: int

    @property
    def end(self) -> int:
        """Where the next entry begins."""
        return self.offset + self.length

    @property
    def mark(self) -> tuple[int, int]:
        """Position and chain."""
        return self.position, self.chain

    def follows(self, chain: int) -> bool:
        """Whether it was written after the entry with this chain."""
        return self.chain == chained(chain, self.position, self.checksum)

    def has(self, column: str) -> bool:
        """Whether values of this column were given."""
        return bool(self.given & _BITS[column])


def pack(*values: int) -> bytes:
    """A line as bytes: the fields of `Line` in order, the tuples among them spread out."""
    plain = _FORM.pack(*values)
    return plain + _CHECK.pack(zlib.crc32(plain))


def unpack(line: bytes) -> Line | None:
    """The inverse of `pack`; None for bytes that are no line."""
    if len(line) != LINE_BYTES or zlib.crc32(line[:_PLAIN]) != _CHECK.unpack(line[_PLAIN:])[0]:
        return None
    values = _FORM.unpack(line[:_PLAIN])
    tally, pushed, checks = Tally(*values[7:12]), (values[12], values[13]), values[14:16]
    return Line._make((*values[:7], tally, pushed, *checks))


def chained(chain: int, position: int, checksum: int) -> int:
    """The chain of an entry after one of ``chain``.

    Example:
        >>> chained(0, 1, 7) != chained(0, 2, 7)
        True
    """
    return zlib.crc32(struct.pack("<QI", position, checksum), chain)
