"""How a dataset with ids passes for the dataset it wraps."""

from __future__ import annotations

from typing import Any


class Forwarding:
    """Unknown attributes come from the wrapped dataset, so that user code finds what it looks for."""

    _wrapped: Any

    def __getattr__(self, name: str) -> Any:
        # Not dunders: pickle and copy ask for those before ``_wrapped`` exists, and must get ours.
        if name.startswith("__") or "_wrapped" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._wrapped, name)


class Stateful:
    """Defined methods, as a loader's protocol check (Python 3.12) does not see those of ``__getattr__``."""

    _wrapped: Any

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The wrapped dataset's state."""
        return self._wrapped.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Set the wrapped dataset's state."""
        return self._wrapped.load_state_dict(*args, **kwargs)


def is_stateful(data: Any) -> bool:
    """Whether ``data`` saves and loads its state."""
    return hasattr(data, "state_dict") and hasattr(data, "load_state_dict")
