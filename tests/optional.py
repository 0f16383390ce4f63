"""Which public names and modules need a framework that is not in every environment."""

from __future__ import annotations

from importlib.util import find_spec

NEEDS = {"ComposerWeights": "composer", "LightningWeights": "lightning", "WeightedTrainerMixin": "transformers"}
"""The package that a public name needs."""

MODULES = {
    "weighted_stream.trainers.composer": "composer",
    "weighted_stream.trainers.huggingface": "transformers",
    "weighted_stream.trainers.lightning": "lightning",
}
"""The package that a module needs."""


def lacking(name: str) -> str | None:
    """The package that is not there, if a public name or a module needs one."""
    package = {**NEEDS, **MODULES}.get(name)
    return package if package is not None and find_spec(package) is None else None
