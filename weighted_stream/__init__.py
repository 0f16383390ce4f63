"""weighted_stream: the data pipeline decides how much each training sample counts, while the model trains."""

from typing import TYPE_CHECKING, Any

from weighted_stream._version import __version__
from weighted_stream.errors import (
    LossError,
    MissingExtraError,
    RanksError,
    SampleIdError,
    ScoringError,
    SourceError,
    StateError,
    StoreError,
    StoreMismatchError,
    StrategyError,
    UnboundError,
    WeightedStreamError,
    WindowError,
    WorkerError,
)
from weighted_stream.figures.step_log import StepLog
from weighted_stream.losses import chunked_cross_entropy, per_sample_cross_entropy
from weighted_stream.scoring.hashed import HashedEncoder
from weighted_stream.scoring.hidden import HiddenStateEncoder
from weighted_stream.scoring.sentence import SentenceEncoder
from weighted_stream.scoring.similarity_scorer import SimilarityScorer
from weighted_stream.scoring.static import Model2VecEncoder
from weighted_stream.scoring.target_set import TargetSet
from weighted_stream.selection import Candidates, Choice
from weighted_stream.shards.priors import prior_scores
from weighted_stream.shards.scored import load_scores
from weighted_stream.shards.side_files import read_scores
from weighted_stream.signals import Signals
from weighted_stream.sources.ids import content_id
from weighted_stream.sources.parquet import ParquetDataset
from weighted_stream.sources.webdataset_pickles import trust_pickles
from weighted_stream.sources.webdataset_s3 import open_s3
from weighted_stream.store import SharedStore, WeightStore
from weighted_stream.strategies import (
    Adapt,
    AdaptBM25,
    Clip,
    DataWeightingModel,
    DoReMi,
    Dro,
    Extremes,
    FilterThenWeight,
    Frozen,
    Greats,
    InfoBatch,
    Kakurenbo,
    LinUpper,
    MetaWeightNet,
    OnlineDataMixing,
    Product,
    Quadratic,
    Resampled,
    RhoLoss,
    Selecting,
    Shuffled,
    Similarity,
    SmallLoss,
    Strategy,
    Uniform,
    make_strategy,
    strategy_names,
)
from weighted_stream.stream import WeightedStream
from weighted_stream.trainers.outputs import causal_lm_losses, label_losses
from weighted_stream.weight import Weight

if TYPE_CHECKING:
    from weighted_stream.trainers.composer import ComposerWeights as ComposerWeights
    from weighted_stream.trainers.huggingface import WeightedTrainerMixin as WeightedTrainerMixin
    from weighted_stream.trainers.lightning import LightningWeights as LightningWeights

__all__ = [
    "Adapt",
    "AdaptBM25",
    "Candidates",
    "Choice",
    "Clip",
    "DataWeightingModel",
    "DoReMi",
    "Dro",
    "Extremes",
    "FilterThenWeight",
    "Frozen",
    "Greats",
    "HashedEncoder",
    "HiddenStateEncoder",
    "InfoBatch",
    "Kakurenbo",
    "LinUpper",
    "LossError",
    "MetaWeightNet",
    "MissingExtraError",
    "Model2VecEncoder",
    "OnlineDataMixing",
    "ParquetDataset",
    "Product",
    "Quadratic",
    "RanksError",
    "Resampled",
    "RhoLoss",
    "SampleIdError",
    "ScoringError",
    "Selecting",
    "SentenceEncoder",
    "SharedStore",
    "Shuffled",
    "Signals",
    "Similarity",
    "SimilarityScorer",
    "SmallLoss",
    "SourceError",
    "StateError",
    "StepLog",
    "StoreError",
    "StoreMismatchError",
    "Strategy",
    "StrategyError",
    "TargetSet",
    "UnboundError",
    "Uniform",
    "Weight",
    "WeightStore",
    "WeightedStream",
    "WeightedStreamError",
    "WindowError",
    "WorkerError",
    "__version__",
    "causal_lm_losses",
    "chunked_cross_entropy",
    "content_id",
    "label_losses",
    "load_scores",
    "make_strategy",
    "open_s3",
    "per_sample_cross_entropy",
    "prior_scores",
    "read_scores",
    "strategy_names",
    "trust_pickles",
]

_LAZY = {
    "ComposerWeights": "weighted_stream.trainers.composer",
    "LightningWeights": "weighted_stream.trainers.lightning",
    "WeightedTrainerMixin": "weighted_stream.trainers.huggingface",
}
"""Names whose modules import a framework: loaded when asked for, and not by ``import *``."""

if not TYPE_CHECKING:  # or every name would have a type

    def __getattr__(name: str) -> Any:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
