"""Listener: a rank whose loader has ended hears the others out, in a thread, while its trainer goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Listener:
    """Runs something in a thread, once, and raises what it raised where it is waited for.

    Args:
        listen: until there is nothing more to hear.

    Example:
        >>> heard = []
        >>> listener = Listener(lambda: heard.append("all of it"))
        >>> listener.wait()
        >>> heard
        ['all of it']
    """

    def __init__(self, listen: Callable[[], None]) -> None:
        self._listen = listen
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="weighted_stream ranks")
        self._thread.start()

    def _run(self) -> None:
        try:
            self._listen()
        except BaseException as error:
            self._fault = error

    def wait(self) -> None:
        """Until it is over.

        Raises:
            BaseException: what it raised; once.
        """
        self._thread.join()
        fault, self._fault = self._fault, None
        if fault is not None:
            raise fault
