"""The manifest on a server: format, dataset and whose the scores are, checked and written as that of any store."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from weighted_stream.errors import StoreError, StoreMismatchError
from weighted_stream.store import manifest
from weighted_stream.store.file import StoreFile
from weighted_stream.store.manifest import Fingerprint, Identity
from weighted_stream.store.place import MANIFEST
from weighted_stream.store.shared_server import Server

LAYOUT = 1
"""Version of the keys and of what the scripts do with them."""

MOST_BYTES = 16 << 20
"""Of a manifest; a dataset of 100,000 shards needs some of it."""

_TURNS = 50


class ServerManifest:
    """Reads and writes the manifest that all who share a store have in common.

    Args:
        server: where it is.
        key: the hash it is in.
        name: of the shared store, for messages.
    """

    path = None

    def __init__(self, server: Server, key: str, name: str) -> None:
        self._server, self._key, self._name = server, key, name
        self._raw: bytes | None = None

    def check(self) -> None:
        """Check that it is of this version, if there is one.

        Raises:
            StoreMismatchError: if it is of another version.
            StoreError: if it is damaged.
            Unreachable: if the server cannot be asked.
        """
        self._patiently(self._check)

    def bind(self, fingerprint: Fingerprint) -> None:
        """Check that the store may hold this dataset, and remember it.

        Raises:
            StoreMismatchError: if it holds another one.
            Unreachable: if the server cannot be asked.
        """
        self._patiently(lambda: manifest.bind(self, fingerprint, write=True), begin=True)

    def bind_scores(self, identity: Identity) -> None:
        """Check that these scores may stand beside those there are, and remember whose they are.

        Raises:
            StoreMismatchError: if the store holds other scores.
            Unreachable: if the server cannot be asked.
        """
        self._patiently(lambda: manifest.bind_scores(self, identity, scored=self._scored()), begin=True)

    def check_scores(self, identity: Identity) -> None:
        """The same check; nothing is remembered."""

        def check() -> None:
            manifest.check_scores(self, identity, scored=self._scored())

        self._patiently(check)

    def agree(self, scores: Any, *, write: bool = True) -> Any:
        """Whose the scores on the server are, after telling it whose ours are, where it does not know.

        Args:
            scores: whose ours are, as JSON values; None: we have none.
            write: tell it. Who only looks leaves nothing behind.

        Returns:
            As JSON values; None if it still does not know.

        Raises:
            StoreMismatchError: if they cannot stand beside each other.
            Unreachable: if the server cannot be asked.
        """

        known: Any = None

        def agree() -> None:
            nonlocal known
            known = manifest.scores(self)
            if scores is not None and (known is None or (not _alike(known, scores) and not self._scored())):
                known = None
                if write:
                    manifest.put_scores(self, scores)
                    known = scores

        self._patiently(agree, begin=write)
        if scores is not None and known is not None and not _alike(known, scores):
            raise StoreMismatchError(
                "The shared store holds other scores than this one.",
                found=f"scores here by {_shown(scores)}",
                expected=f"those of the shared store {self._name!r}, by {_shown(known)}",
                do="share under another name=, or begin with a local store without scores (another path)",
            )
        return known

    def read_manifest(self) -> Any:
        """The JSON value that was written last, or None."""
        (raw,) = self._server.exchange([("HGET", self._key, "manifest")])
        self._raw = raw
        if raw is None:
            return None
        try:
            if not isinstance(raw, bytes) or len(raw) > MOST_BYTES:
                raise ValueError(f"more than {MOST_BYTES:,} bytes")
            return json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise self._damaged(error) from error

    def write_manifest(self, value: Any) -> None:
        """Put a JSON value in the place of the one that was read, if nobody else has."""
        text = json.dumps({**value, "shared": value.get("shared", LAYOUT)}, sort_keys=True).encode()
        if len(text) > MOST_BYTES:
            raise StoreError(
                "This dataset has too many shards for a shared store.",
                found=f"{len(text):,} bytes to tell them",
                expected=f"at most {MOST_BYTES:,}",
                do="write larger shards",
            )
        (done,) = self._server.exchange([self._server.script("swap", [self._key], self._raw or b"", text)])
        if not done:
            raise _Meanwhile

    def open(self, name: str, *, write: bool, create: bool = False) -> StoreFile:
        """There are no files on a server."""
        raise NotImplementedError(name)

    def remove(self, name: str) -> None:
        """There are no files on a server."""

    def tables(self) -> list[str]:
        """There are no files on a server."""
        return []

    def begin(self) -> None:
        """See to it that there is one.

        Raises:
            Unreachable: if the server cannot be asked.
        """
        self._patiently(lambda: None, begin=True)

    def _scored(self) -> int:
        (scored,) = self._server.exchange([("HGET", self._key, "scored")])
        return int(scored) if isinstance(scored, bytes) and scored.isdigit() else 0

    def _check(self) -> None:
        manifest.check(self)
        layout = json.loads(self._raw or b"{}").get("shared")
        if layout != LAYOUT:
            raise StoreMismatchError(
                "This shared store has another layout.",
                found=f"version {layout}, under the name {self._name!r}",
                expected=f"version {LAYOUT}",
                do="use the version of weighted-stream that made it, or another name=",
            )

    def _patiently(self, work: Callable[[], None], *, begin: bool = False) -> None:
        """Read, check and write until nobody else has written in between; with ``begin`` make one if there is none."""
        for _ in range(_TURNS):
            try:
                if self.read_manifest() is None:
                    if not begin:
                        return
                    manifest.begin(self)
                work()
                return
            except _Meanwhile:
                continue
            except (StoreError, AttributeError, LookupError, TypeError, ValueError) as error:
                if self._raw is None:
                    continue  # the server was emptied in between
                named = self._named(error)
                if named is None:
                    raise
                raise named from error
        raise StoreError(
            "The manifest of the shared store could not be written.",
            found=f"others changed it {_TURNS} times in between",
            expected="a moment's peace",
            do="try again",
        )

    def _named(self, error: Exception) -> StoreError | None:
        """The error of a manifest in a directory, as that of this one; None: it is one of this one."""
        if not isinstance(error, StoreError) or error.problem.startswith(f"The {MANIFEST}"):
            return self._damaged(error)
        if not isinstance(error, StoreMismatchError):
            return None
        elsewhere = "give each dataset, and each kind of scores, a shared store of its own (another name=)"
        return StoreMismatchError(
            error.problem.replace("This store", f"The shared store {self._name!r}"),
            found=error.found,
            expected=error.expected,
            do=elsewhere if "another path" in error.do else error.do,
        )

    def _damaged(self, error: Exception) -> StoreError:
        found = error.found if isinstance(error, StoreError) else f"{type(error).__name__}: {error}"
        return StoreError(
            f"The manifest of the shared store {self._name!r} is damaged.",
            found=str(found)[:200],
            expected="format, version and fingerprint, as JSON",
            do="does anything else write under this name? Take another name=, or delete its keys",
        )


class _Meanwhile(Exception):
    """Somebody else has written the manifest since it was read."""


def _alike(one: Any, other: Any) -> bool:
    """Whether two identities of scores are one; a field that only one of them knows decides nothing."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return bool(one == other)
    known = {"text": one.get("text", other.get("text"))}
    return bool(_who({**known, **one}) == _who({**known, **other}))


def _who(scores: Any) -> Any:
    """Without the centroid, which differs in its last digits between devices."""
    return {key: value for key, value in scores.items() if key != "centroid"} if isinstance(scores, dict) else scores


def _shown(scores: Any) -> str:
    return json.dumps(_who(scores), ensure_ascii=False)[:400]
