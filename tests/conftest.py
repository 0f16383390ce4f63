"""Shared settings: few threads (CI has two cores), reproducible and unhurried property tests."""

from __future__ import annotations

import os

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("default", deadline=None, derandomize=bool(os.environ.get("CI")), max_examples=60)
settings.load_profile("default")
