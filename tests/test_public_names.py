"""The public names, pinned: adding or losing one is a decision, not an accident."""

from __future__ import annotations

import subprocess
import sys

import pytest
from optional import NEEDS, lacking

import weighted_stream

NAMES = [
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
    "StoreError",
    "StateError",
    "StepLog",
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


def test_public_names() -> None:
    assert sorted(weighted_stream.__all__) == sorted(NAMES)
    for name in NAMES:
        assert hasattr(weighted_stream, name)


def test_names_that_need_a_framework() -> None:
    assert sorted(weighted_stream._LAZY) == sorted(NEEDS)
    for name in NEEDS:
        if lacking(name):
            with pytest.raises(weighted_stream.MissingExtraError):
                getattr(weighted_stream, name)
        else:
            assert hasattr(weighted_stream, name)


def test_importing_loads_no_optional_package() -> None:
    code = (
        "import sys, weighted_stream\n"
        "heavy = 'streaming', 'webdataset', 'datasets', 'transformers', 'matplotlib', 'sklearn', 'composer', 'trl'\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
