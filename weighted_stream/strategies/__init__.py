"""Strategies: signals in, weights out. One method a file, its formula first as a function on tensors."""

from weighted_stream.strategies.adapt import Adapt
from weighted_stream.strategies.adapt_bm25 import AdaptBM25
from weighted_stream.strategies.base import Strategy
from weighted_stream.strategies.clip import Clip
from weighted_stream.strategies.data_weighting_model import DataWeightingModel
from weighted_stream.strategies.do_re_mi import DoReMi
from weighted_stream.strategies.dro import Dro
from weighted_stream.strategies.extremes import Extremes
from weighted_stream.strategies.filter_then_weight import FilterThenWeight
from weighted_stream.strategies.frozen import Frozen
from weighted_stream.strategies.greats import Greats
from weighted_stream.strategies.info_batch import InfoBatch
from weighted_stream.strategies.kakurenbo import Kakurenbo
from weighted_stream.strategies.lin_upper import LinUpper
from weighted_stream.strategies.meta_weight_net import MetaWeightNet
from weighted_stream.strategies.online_data_mixing import OnlineDataMixing
from weighted_stream.strategies.product import Product
from weighted_stream.strategies.quadratic import Quadratic
from weighted_stream.strategies.registry import make_strategy, strategy_names
from weighted_stream.strategies.resampled import Resampled
from weighted_stream.strategies.rho_loss import RhoLoss
from weighted_stream.strategies.selecting import Selecting
from weighted_stream.strategies.shuffled import Shuffled
from weighted_stream.strategies.similarity import Similarity
from weighted_stream.strategies.small_loss import SmallLoss
from weighted_stream.strategies.uniform import Uniform

__all__ = [
    "Adapt",
    "AdaptBM25",
    "Clip",
    "DataWeightingModel",
    "DoReMi",
    "Dro",
    "Extremes",
    "FilterThenWeight",
    "Frozen",
    "Greats",
    "InfoBatch",
    "Kakurenbo",
    "LinUpper",
    "MetaWeightNet",
    "OnlineDataMixing",
    "Product",
    "Quadratic",
    "Resampled",
    "RhoLoss",
    "Selecting",
    "Shuffled",
    "Similarity",
    "SmallLoss",
    "Strategy",
    "Uniform",
    "make_strategy",
    "strategy_names",
]
