"""One writer per store: an advisory lock that the kernel takes back when a process ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import warnings
import weakref
from pathlib import Path

from weighted_stream.errors import StoreError
from weighted_stream.store.file import failure

_HELD: weakref.WeakSet[WriterLock] = weakref.WeakSet()
_NO_LOCKS_HERE = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class WriterLock:
    """Holds the right to write a store until `release`, garbage collection or the end of the process.

    Args:
        path: the file to lock. It leaves no other trace.
        create: make the file if there is none.

    Raises:
        StoreError: if the file cannot be opened, or another object, here or in another process, has the lock.
    """

    def __init__(self, path: Path, *, create: bool) -> None:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o666)
        except OSError as error:
            raise failure(
                f"Cannot write the store in {path.parent}.",
                error,
                expected=f"a writable file {path.name}",
                do='check the path and its permissions; WeightStore(path, mode="r") only reads',
            ) from error
        # A descriptor of its own: a mapping keeps a duplicate of its descriptor, and would keep the lock too.
        self._fd = fd
        self.release = weakref.finalize(self, _release, fd, os.getpid())
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise StoreError(
                f"The store in {path.parent} has a writer already.",
                found="another WeightStore that writes it, here or in another process",
                expected="one writer per store: the main process of a rank",
                do='close the other one, give each rank its own path, or read with mode="r"',
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS_HERE:
                self.release()
                raise
            warnings.warn(
                f"The file system of {path.parent} has no locks: a second writer would go unnoticed.",
                RuntimeWarning,
                stacklevel=2,
            )
        _HELD.add(self)

    def forget(self) -> None:
        """Let go of a lock that was inherited: the parent keeps it, and it dies with the parent."""
        if self.release.detach() is not None:
            os.close(self._fd)


def _release(fd: int, owner: int) -> None:
    if os.getpid() == owner:
        # Closing would be enough, but for a child that was forked a moment ago and has not forgotten it yet.
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


def _forget_after_fork() -> None:
    for lock in list(_HELD):
        lock.forget()


os.register_at_fork(after_in_child=_forget_after_fork)
