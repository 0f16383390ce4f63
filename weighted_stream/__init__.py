"""weighted_stream: the data pipeline decides how much each training sample counts, while the model trains."""

from weighted_stream._version import __version__
from weighted_stream.errors import (
    LossError,
    MissingExtraError,
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
)
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
from weighted_stream.store import WeightStore
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
from weighted_stream.weight import Weight

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
    "RhoLoss",
    "SampleIdError",
    "ScoringError",
    "Selecting",
    "SentenceEncoder",
    "Shuffled",
    "Signals",
    "Similarity",
    "SimilarityScorer",
    "SmallLoss",
    "SourceError",
    "StateError",
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
    "__version__",
    "chunked_cross_entropy",
    "content_id",
    "load_scores",
    "make_strategy",
    "per_sample_cross_entropy",
    "prior_scores",
    "read_scores",
    "strategy_names",
]
