"""WeightStore: what is remembered of each sample, in memory-mapped files."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from weighted_stream.errors import StoreError
from weighted_stream.sample_ids import DENSE_LIMIT, MAX_ID
from weighted_stream.store import inputs, manifest, refusals, state
from weighted_stream.store.behind import Behind, check_call
from weighted_stream.store.dense import PIECE
from weighted_stream.store.folder import Folder
from weighted_stream.store.groups import Groups
from weighted_stream.store.journal import Journal
from weighted_stream.store.journal_opening import check_limit, open_journal, refuse_journal
from weighted_stream.store.journal_reading import has_entries, history
from weighted_stream.store.journal_travel import as_of, rebuild
from weighted_stream.store.later import Later
from weighted_stream.store.manifest import Fingerprint, Identity
from weighted_stream.store.opening import lock, open_regions
from weighted_stream.store.pieces import even
from weighted_stream.store.place import JOURNAL, Place
from weighted_stream.store.record import Ids, Records, fields, groups_of, words_of
from weighted_stream.store.regions import Regions
from weighted_stream.store.scratch import Scratch
from weighted_stream.store.shared_address import is_address
from weighted_stream.store.statistics import summary

Fields: TypeAlias = dict[str, npt.NDArray[Any]]


class WeightStore:
    """Remembers a record of 32 bytes per sample: losses, last weight, similarity, visits, last step, group.

    Any id from 0 to 2**63 - 1 has a record from the start; a sample that was never touched reads as blank.
    Disk and memory go with what is touched, whatever the ids: a store of 10**9 samples opens at once.

    One object writes a store (the main process of a rank); any number of others, in any process, read it
    while it is written, without locks: a read may fall between two samples of an update, but what `update`
    returned from is there for all of them, and stays there if the writer is killed. An update during which
    the writer is killed is there or not when the store is opened again, but for 16,384 samples and more, of which
    there may be the first ones (without a journal any of them, and the counters are set right). A power failure
    may lose what came after the last `flush` or `close`. Threads may share a store.

    Args:
        path: a directory for the store alone, made if there is none. None (default): a temporary store, which
            disappears with this object or its process, and which only this process and its forks can read (these
            see no more of ids from 2**38 on once their table has grown).
        fingerprint: the dataset the ids belong to (``source.fingerprint()``). A store remembers the first one
            it is given, refuses another one, and adds new shards of the same one. None (default): no check.
        mode: ``"a"`` (default) reads and writes, ``"r"`` only reads, while another process may write.
        journal: write all feedback down, before it changes a record, in ``path/journal``: 68 bytes a sample, from
            which the records can be brought back to any state that `state_dict` returned, or made anew. Default:
            True with a path, False without.
        journal_bytes: how much of it there may be, 1 GiB by default (16 million samples); what is older goes into a
            copy of the records as they were then, a little with each update.

    Attributes:
        later: records that are newer than the files: ranks that share a store know before it is written.

    Raises:
        StoreError: if the store cannot be made or opened, is damaged, or already has a writer.
        StoreMismatchError: if it belongs to another dataset or has another format version.

    Example:
        >>> with WeightStore() as store:
        ...     store.update([3, 8], loss=[2.0, 1.0], weight=[1.5, 0.5], step=0)
        ...     store.update([3], loss=[1.0], step=1)
        ...     store.get([3, 8, 5])["loss"].tolist(), store.get([3])["visits"].tolist(), len(store)
        ([1.5, 1.0, nan], [2], 2)
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        fingerprint: Fingerprint | None = None,
        mode: Literal["a", "r"] = "a",
        journal: bool | None = None,
        journal_bytes: int = 1 << 30,
    ) -> None:
        if mode not in ("a", "r") or (mode == "r" and path is None):
            raise refusals.mode(path, mode)
        if is_address(path):
            raise refusals.address(str(path))
        write = mode == "a"
        self._process = os.getpid() if write else None
        self._closed = False
        self.later = Later()
        self._threads = threading.Lock()
        self._place: Place = Scratch() if path is None else Folder(Path(path).absolute(), create=write)
        self._lock = lock(self._place) if write else None
        try:
            self._regions = open_regions(self._place, write=write)
            self._journal = self._open_journal(journal, journal_bytes) if write else None
            self._groups = Groups(self._place)
            self._behind = Behind(self._regions, self._threads)
            weakref.finalize(self, self._behind.write)  # also at the end of the program
            if fingerprint is not None:
                self.bind(fingerprint)
        except BaseException:
            self._release()
            raise

    def _take(self, place: Place, regions: Regions) -> None:
        """Become a store that reads these."""
        self._process, self._closed, self._lock, self._journal = None, False, None, None
        self._place, self._regions, self._threads, self.later = place, regions, threading.Lock(), Later()
        self._groups, self._behind = Groups(place), Behind(regions, self._threads)

    def _with_journal(self) -> Journal:
        self._check_writes()
        if self._journal is None:
            raise refusals.no_journal()
        return self._journal

    def _open_journal(self, wanted: bool | None, limit: int) -> Journal | None:
        check_limit(limit)
        if isinstance(self._place, Folder):
            if wanted or wanted is None:
                return open_journal(self._place, self._regions, limit)
            refuse_journal(self._place)
        elif wanted:
            raise refusals.no_journal()
        self._regions.mend()
        return None

    def bind(self, fingerprint: Fingerprint) -> None:
        """Check that this store may hold the dataset of ``fingerprint``; if it writes, remember it.

        Raises:
            StoreMismatchError: if it holds another dataset.
        """
        self._check_open()
        with self._threads:
            manifest.bind(self._place, fingerprint, write=self._writes())

    def bind_scores(self, identity: Identity) -> None:
        """Check that scores of ``identity`` may be written here beside those there are, and remember whose they are.

        For whoever writes ``update(ids, similarity=...)``: scores of two target sets or encoders cannot be compared.

        Args:
            identity: a `ScoreIdentity`: encoder, target set and method of the scores to come.

        Raises:
            StoreMismatchError: if the store holds scores of another identity, or of none that is known.
            StoreError: if it is closed or was opened for reading.

        Example:
            >>> from weighted_stream.scoring.identity import ScoreIdentity
            >>> with WeightStore() as store:
            ...     store.bind_scores(ScoreIdentity("mini", "c0ffee", "mean"))
            ...     store.update([3], similarity=[0.5])
            ...     store.bind_scores(ScoreIdentity("mini", "tea", "mean"))
            Traceback (most recent call last):
            weighted_stream.errors.StoreMismatchError: This store holds other scores: target 'tea' instead of 'c0ffee'.
            ...
        """
        self._check_writes()
        with self._threads:
            manifest.bind_scores(self._place, identity, scored=self._regions.header.tally.scored)

    def check_scores(self, identity: Identity) -> None:
        """The same check, of an identity that may lack its centroid, and nothing is remembered.

        Raises:
            StoreMismatchError: if the store holds scores of another identity, or of none that is known.
        """
        self._check_open()
        manifest.check_scores(self._place, identity, scored=self._regions.header.tally.scored)

    @property
    def path(self) -> Path | None:
        """The directory of the store; None for a temporary one."""
        return self._place.path

    @property
    def writable(self) -> bool:
        """Whether this object, in this process, writes."""
        return self._writes()

    def get(self, ids: Any) -> Fields:
        """What is remembered of some samples.

        Args:
            ids: (n,) integers in [0, 2**63): an array, a list or a tensor. Repeats are fine.

        Returns:
            Arrays of shape (n,), yours to change. float32, NaN where unknown: ``loss`` (the mean of the
            first 10 losses; from then on each one moves it by a tenth of the way), ``last_loss``, ``weight``
            (the last one), ``similarity``. int64: ``visits`` (how many losses), ``last_step`` and ``group``
            (-1 if none), and ``nonfinite`` (how many losses were NaN, infinite or beyond 1e38, and did not
            count).

        Raises:
            SampleIdError: if an id is no integer in [0, 2**63).
        """
        return fields(self.records(ids))

    def records(self, ids: Any) -> Records:
        """The same as they lie in the file, xored with `BLANK`: for what goes on top of a store."""
        self._check_open()
        ids = inputs.as_ids(ids)
        highest = int(ids.view(np.uint64).max()) if ids.size else 0
        if highest > MAX_ID:
            raise inputs.negative(ids)
        self._follow()
        records = self._regions.read(ids, highest)
        if len(self.later):
            self.later.lay_over(ids, words_of(records))
        return records

    def update(
        self,
        ids: Any,
        *,
        loss: Any = None,
        weight: Any = None,
        similarity: Any = None,
        group: Any = None,
        step: int | None = None,
    ) -> None:
        """Remember something of some samples; what is not given stays as it is.

        Each loss counts as a visit. A loss that is NaN, infinite or beyond 1e38 is only counted: it changes
        neither average nor last loss nor visits. An id that comes several times is updated in order, as by
        several calls. All arguments are checked before anything is written.

        Args:
            ids: (n,) integers in [0, 2**63): an array, a list or a tensor.
            loss: (n,) numbers, kept as float32.
            weight: (n,) finite numbers.
            similarity: (n,) finite numbers.
            group: (n,) integers in [-1, 2**31); -1 is no group.
            step: one integer in [0, 2**31), the step all of this belongs to.

        Raises:
            SampleIdError: if an id is no integer in [0, 2**63).
            StoreError: if a value does not go with the ids, nothing is given, the disk is full, or the store
                is closed, was opened for reading, or belongs to the parent process.
        """
        self._check_writes()
        ids = inputs.as_ids(ids)
        self._behind.put(ids, inputs.as_change(ids.size, loss, weight, similarity, group, step))

    def record(self, ids: Any, loss: Any, weight: Any = None, *, step: int) -> None:
        """The feedback of one batch: as `update`, but written together with that of the next batches.

        Whatever is asked of this object is answered after it was written; `close` and the end of the program write it
        too. Other processes see it up to 32 calls or 2,048 samples late, and a killed process has lost as much.

        Args:
            ids: (n,) integers in [0, 2**63).
            loss: (n,) numbers.
            weight: (n,) numbers, or None: weights stay. NaN stands for no weight.
            step: one integer in [0, 2**31).

        Raises:
            SampleIdError, StoreError: as `update`.

        Example:
            >>> with WeightStore() as store:
            ...     store.record([3, 8], [2.0, 1.0], [1.5, 0.5], step=0)
            ...     store.get([8])["weight"].tolist()
            [0.5]
        """
        self._check_writes()
        self._behind.add(*check_call(ids, loss, weight, step))

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of the groups: that of group n, as in ``get(ids)["group"]``, is ``groups[n]``."""
        if not self._writes():
            self._groups.read()
        return self._groups.names

    def set_groups(self, ids: Any, names: Sequence[str]) -> None:
        """Remember of which groups samples are, by name. What is known already is not written again.

        A new name gets the next number, and keeps it as long as the store is.

        Args:
            ids: (n,) integers in [0, 2**63).
            names: n of them.

        Raises:
            SampleIdError: if an id is no integer in [0, 2**63).
            StoreError: if there are not as many names as ids, one is no string, the store would have more than 4,096
                groups, is closed, or was opened for reading.

        Example:
            >>> with WeightStore() as store:
            ...     store.set_groups([3, 8], ["code", "text"])
            ...     store.groups, store.get([8])["group"].tolist()
            (('code', 'text'), [1])
        """
        self._check_writes()
        ids = inputs.as_ids(ids)
        highest = int(ids.view(np.uint64).max()) if ids.size else 0
        if highest > MAX_ID:
            raise inputs.negative(ids)
        if len(names) != ids.size:
            raise refusals.names(len(names), ids.size)
        with self._threads:
            numbers = self._groups.numbers(names)
        # Groups are never held back, so nothing has to be written before they are looked up.
        news = groups_of(self._regions.read(ids, highest)) != numbers
        if np.count_nonzero(news):
            news = np.isin(ids, ids[news])  # of an id that comes several times all, so that the last one counts
            self.update(ids[news], group=numbers[news])

    def reserve(self, count: int) -> None:
        """Make room for ids below ``count``, so that no update has to. It takes no disk and no memory.

        Raises:
            StoreError: if the file system cannot hold a (sparse) file of ``32 * count`` bytes.
        """
        self._check_writes()
        self._behind.write()
        with self._threads:
            self._regions.dense.reserve(min(count, DENSE_LIMIT))

    def __len__(self) -> int:
        """The number of samples of which anything is remembered."""
        self._check_open()
        return self._regions.header.tally.samples

    @property
    def scored(self) -> int:
        """The number of samples in the files that have a similarity."""
        if self._closed:
            raise refusals.closed()
        return self._regions.header.tally.scored

    def __bool__(self) -> bool:
        """True: a store without samples is a store."""
        return True

    def ids(self, size: int = PIECE) -> Iterator[Ids]:
        """The ids of all samples of which anything is remembered, in int64 arrays of at most ``size``.

        Ids below 2**38 come first, ascending. A sample first touched meanwhile may or may not be there.
        """
        self._check_open()
        if size < 1:
            raise StoreError("Cannot cut the ids.", found=f"size={size}", expected="1 or more", do="ids(65536)")
        self._follow()
        return even(self._regions.touched(), size)

    def chunks(self, size: int = PIECE) -> Iterator[tuple[Ids, Fields]]:
        """All samples of which anything is remembered: ``(ids, get(ids))``, at most ``size`` at a time."""
        for ids in self.ids(size):
            yield ids, self.get(ids)

    def __iter__(self) -> Iterator[tuple[Ids, Fields]]:
        """The same as `chunks`: arrays, not single samples."""
        return self.chunks()

    def to_parquet(self, file: str | os.PathLike[str]) -> int:
        """Write all samples to a Parquet file: columns ``id`` and those of `get`, null for what is unknown.

        Returns:
            The number of rows.

        Raises:
            StoreError: if the file cannot be written.
        """
        from weighted_stream.store.export import write_parquet

        return write_parquet(file, self.chunks())

    def stats(self) -> dict[str, float]:
        """Figures to log; they take some tens of microseconds.

        Returns:
            Exact counts over the life of the store: ``samples`` (anything remembered), ``visits`` (losses
            averaged in), ``scored`` (samples with a similarity), ``unscored`` (samples visited without one),
            ``nonfinite`` (losses that did not count). Over the latest 4,096 weights and losses given to
            `update`, NaN if there are none: ``window`` (how many weights that is), ``ess`` (effective sample
            size (Σw)²/Σw² as a share of the window: 1 if all weights are equal), ``weight_mean``,
            ``weight_cv`` (standard deviation over mean), ``weight_q05``, ``weight_q50``, ``weight_q95``,
            ``loss_mean``, ``loss_q05``, ``loss_q50``, ``loss_q95``.
        """
        self._check_open()
        return summary(*self._regions.header.snapshot())

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to come back to what is remembered now. A running trainer may ask as often as it likes.

        Returns:
            With a journal a position in it: plain JSON values, whatever the number of samples. Without one (a temporary
            store) all records, as NumPy arrays: 40 bytes for each sample that was touched.

        Raises:
            StoreError: if the store is closed or only reads.

        Example:
            >>> with WeightStore() as store:
            ...     store.update([3], loss=[2.0], step=0)
            ...     state = store.state_dict()
            ...     store.update([3, 4], loss=[9.0, 9.0], step=1)
            ...     store.load_state_dict(state)
            ...     store.get([3])["loss"].tolist(), len(store)
            ([2.0], 1)
        """
        self._check_writes()
        self._behind.write()
        with self._threads:
            if self._journal is None:
                return state.of_records(self._place, self._regions)
            return state.of_journal(self._place, self._journal)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Bring everything back to what it was when ``state_dict()`` returned this, bit for bit, with `stats`.

        With a journal the store must be the one the state was taken of, or a copy of its directory, after whatever has
        happened to its process; what came later is undone and forgotten. It takes as long as writing that did. Without
        a journal any store does, and the state is all that it holds then.

        Raises:
            StoreMismatchError: for a state of another store, or of another past of this one.
            StoreError: for none, for one from before what the journal still has, or if the journal is damaged.
        """
        self._check_writes()
        with self._threads:
            if self._journal is None:
                state.to_records(self._place, self._regions, state_dict)
            else:
                state.to_journal(self._place, self._regions, self._journal, state_dict)
            self._behind.forget()
            self._groups.read()

    def compact(self, state_dict: Mapping[str, Any] | None = None) -> None:
        """Make the journal shorter: what happened before a state goes into a copy of the records as they were then.

        It happens by itself beyond ``journal_bytes``. Other threads may go on meanwhile, memory is bounded, and it
        takes about as long as writing what goes did.

        Args:
            state_dict: the earliest state that `load_state_dict` must still be able to come back to. Default: the
                present one.

        Raises:
            StoreMismatchError, StoreError: for a state that cannot be come back to now; if the store has no journal, or
                it is damaged; or if the disk is full.
        """
        journal = self._with_journal()
        wanted = self.state_dict() if state_dict is None else state_dict
        with self._threads:
            position = state.check_position(self._place, journal, wanted)
            journal.flush()  # a power failure must not take entries away from behind what they went into
        more = True
        while more:
            with self._threads:
                self._regions.mend()
                more = journal.compact(position)

    def history(self) -> Iterator[Any]:
        """All feedback in the journal, in order: how the store has become what it is.

        Returns:
            ``pyarrow.RecordBatch`` of at most 16,384 rows, one for each sample of each call: ``step``, ``id``,
            ``loss``, ``weight``, ``similarity``, ``group``, null where nothing was given. Also while another process
            writes; what was compacted is not there any more.

        Raises:
            StoreError: if the store has no journal, it is damaged, or is compacted meanwhile.
        """
        self._check_open()
        if self.path is None or (self._regions.header.tally.samples and not has_entries(self.path / JOURNAL)):
            raise refusals.no_journal()
        return history(self.path / JOURNAL)

    @classmethod
    def at_step(cls, path: str | os.PathLike[str], step: int) -> WeightStore:
        """The store as it was right after the last feedback of a step: a temporary copy that only reads.

        Args:
            path: the directory of a store with a journal; another process may be writing it.
            step: feedback of this step and of those before it is in it, in the order in which it came.

        Raises:
            StoreError: if the journal does not reach back so far, is damaged, or there is none.

        Example:
            >>> import tempfile
            >>> folder = tempfile.mkdtemp()
            >>> with WeightStore(folder) as store:
            ...     for step in range(3):
            ...         store.record([7], [step], step=step)
            >>> WeightStore.at_step(folder, 1).get([7])["last_loss"]
            array([1.], dtype=float32)
        """
        place, regions = as_of(Path(path).absolute(), inputs.as_step(step))
        store = cls.__new__(cls)
        store._take(place, regions)
        return store

    @staticmethod
    def rebuild(path: str | os.PathLike[str]) -> None:
        """Make the records of a store anew from its journal, if they were lost or damaged; nobody may have it open.

        Args:
            path: its directory.

        Raises:
            StoreError: if it is open, has no journal, or the journal is damaged.
        """
        rebuild(Path(path).absolute())

    def flush(self) -> None:
        """Put everything on the disk, so that a power failure loses nothing of it.

        Raises:
            StoreError: if the store is closed or only reads; if the disk is full or fails.
        """
        self._check_writes()
        self._behind.write()
        try:
            with self._threads:
                if self._journal is not None:
                    self._journal.flush()
                self._regions.flush()
        except StoreError:
            raise
        except OSError as error:  # a network file system says only now that there was no room
            raise refusals.not_on_disk(error) from error

    def close(self) -> None:
        """Flush and let go of the files; a temporary store is gone then. Closing twice is fine."""
        if not self._closed and self._writes():
            self._behind.write()
            if self.path is not None:
                self.flush()
        self._release()

    def _release(self) -> None:
        self._closed = True
        if "_behind" in self.__dict__:
            self._behind.end()
        if self._lock is not None:
            self._lock.release()
        regions = self.__dict__.pop("_regions", None)
        if regions is not None:
            regions.journal = None  # they know each other: the files would stay open until the collector comes by
        self._journal = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        where = "temporary" if self.path is None else repr(str(self.path))
        return f"WeightStore({where}, {'closed' if self._closed else f'{len(self):,} samples'})"

    def __reduce__(self) -> tuple[Any, ...]:
        if self.path is None:
            raise refusals.temporary()
        # In another process it reads: the writer is this one.
        return _reader, (str(self.path),)

    def _writes(self) -> bool:
        return self._process == os.getpid()

    def _follow(self) -> None:
        if not self._writes():
            self._regions.follow()

    def _check_open(self) -> None:
        if self._closed:
            raise refusals.closed()
        self._behind.write()

    def _check_writes(self) -> None:
        if self._closed or not self._writes():
            raise self._refusal()

    def _refusal(self) -> StoreError:
        return refusals.closed() if self._closed else refusals.write(self._process)


def _reader(path: str) -> WeightStore:
    return WeightStore(path, mode="r")
