"""Workers whose trainer was killed.

torch's worker looks every few seconds whether it still has the parent that it had at the end of its beginning. That is
not the trainer if it was killed before that, nor ever where workers fork from a server: such a worker would wait for
something to do for as long as the machine runs.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from typing import Any

EVERY = 5.0
"""Seconds between two looks, as torch has it."""


def start_method(context: Any) -> str | None:
    """The name in a loader's ``multiprocessing_context``; None if it has none, so that the default is taken.

    Example:
        >>> start_method("fork"), start_method(multiprocessing.get_context("spawn")), start_method(None)
        ('fork', 'spawn', None)
    """
    return context if context is None or isinstance(context, str) else context.get_start_method()


def leave_with_trainer(method: str | None) -> None:
    """See to it that this process, if it is a worker, does not outlive its trainer.

    Args:
        method: how the worker was started; None: in the default way.
    """
    trainer = multiprocessing.parent_process()
    if trainer is not None:
        forked = (method or multiprocessing.get_start_method()) == "fork"
        threading.Thread(target=_wait, args=(trainer, forked), name="trainer's end", daemon=True).start()


def _wait(trainer: Any, forked: bool) -> None:
    if forked:  # later siblings inherit what would tell of the trainer's end at once; but it is the parent
        while os.getppid() == trainer.pid:
            time.sleep(EVERY)
    else:
        trainer.join()
    os._exit(1)
