"""The network of DataWeightingModel, its features, and its file."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weighted_stream import StateError
from weighted_stream.strategies.meta_weight_net import LossNetwork
from weighted_stream.strategies.weighting_files import load_network, save_network
from weighted_stream.strategies.weighting_network import WeightingNetwork, relative, softmax_weights, standardised


def learned(features: int = 5, layers: int = 2) -> WeightingNetwork:
    """One whose weights differ."""
    network = WeightingNetwork(features, width=16, layers=layers, heads=4, seed=3)
    torch.nn.init.normal_(network.score[1].weight, generator=torch.Generator().manual_seed(1))
    return network


@settings(max_examples=40)
@given(st.integers(1, 50), st.integers(0, 2**31))
def test_it_is_equivariant_to_permutations(size: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    features, order = torch.randn(size, 5, generator=draw), torch.randperm(size, generator=draw)
    network = learned()
    with torch.no_grad():
        torch.testing.assert_close(network(features[order]), network(features)[order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1, 3, 7, 49, 1000])
def test_it_begins_exactly_uniform(size: int) -> None:
    assert torch.equal(WeightingNetwork(5)(torch.randn(size, 5)), torch.ones(size))


def test_weights_are_of_the_batch_and_average_one() -> None:
    network, features = learned(), torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        alone, together = network(features[:4]), network(features)
    assert together.mean().item() == pytest.approx(1, abs=1e-6)
    assert together.std() > 0.1
    ratios = alone / together[:4]
    assert ratios.max() / ratios.min() > 1.01  # not merely scaled: who else is there matters


def test_weights_with_and_without_a_graph_are_the_same_bit_for_bit() -> None:
    network, features = learned(), torch.randn(9, 5)
    with torch.no_grad():
        plain = network(features)
    assert torch.equal(network(features).detach(), plain)


@pytest.mark.parametrize("kind", [WeightingNetwork, LossNetwork])
def test_the_seed_decides_and_no_random_state_moves(kind) -> None:
    arguments = (1,) if kind is WeightingNetwork else ()
    torch.manual_seed(5)
    before = torch.rand(3)
    torch.manual_seed(5)
    one, other, third = (kind(*arguments, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), before)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(not torch.equal(one[name], third[name]) for name in one)


def test_features_do_not_change_with_rotation_scale_or_width() -> None:
    draw = torch.Generator().manual_seed(0)
    vectors, anchors = torch.randn(7, 6, generator=draw), torch.randn(4, 6, generator=draw)
    rotation = torch.linalg.qr(torch.randn(9, 9, generator=draw)).Q[:6]  # into nine dimensions
    expected = relative(vectors, anchors)
    torch.testing.assert_close(relative(3 * vectors @ rotation, 3 * anchors @ rotation), expected, rtol=1e-4, atol=1e-5)
    assert expected.shape == (7, 4)
    assert expected.abs().max() <= 1 + 1e-6
    assert torch.equal(relative(vectors[:1], anchors[:1]), torch.zeros(1, 1))  # one anchor says nothing


@given(st.floats(0.01, 100), st.floats(0, 50))
def test_standardised_losses_know_no_scale(scale: float, shift: float) -> None:
    losses = torch.tensor([0.5, 1.0, 4.0, 2.0])
    torch.testing.assert_close(standardised(scale * losses + shift), standardised(losses), rtol=2e-2, atol=2e-3)


def test_equal_losses_are_equal() -> None:
    for size in 1, 3, 1000:
        assert torch.equal(standardised(torch.full((size,), 0.3)), torch.zeros(size))
    assert standardised(torch.tensor([1.0, 1.01])).abs().min() > 0.99


def test_softmax_weights_do_not_overflow() -> None:
    assert torch.equal(softmax_weights(torch.tensor([1e4, 0.0])), torch.tensor([2.0, 0.0]))


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    network, path = learned(), tmp_path / "dwm"
    for _ in range(2):
        save_network(path, {"width": 16}, dict(network.named_parameters()))
    sizes, values = load_network(path)
    assert sizes == {"width": 16}
    assert all(torch.equal(values[name], parameter) for name, parameter in network.named_parameters())
    assert len(values) == len(dict(network.named_parameters()))
    assert [file.name for file in tmp_path.iterdir()] == ["dwm"]


def test_files_that_are_none(tmp_path: Path) -> None:
    good, path = tmp_path / "good", tmp_path / "bad"
    save_network(good, {"width": 16}, dict(learned().named_parameters()))
    whole = good.read_bytes()
    for size in 0, 10, len(whole) // 2, len(whole) - 10:
        path.write_bytes(whole[:size])
        with pytest.raises(StateError, match=r"no weighting network in .*bad"):
            load_network(path)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    path.write_bytes(flipped)
    with pytest.raises(StateError):
        load_network(path)
    for header in b"{'descr': '<f4',             (", b"{'descr': '", b"(" * 100:  # numpy reads it as Python
        path.write_bytes(whole)
        with zipfile.ZipFile(path, "a") as file:
            file.writestr("psi.bad.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n")
        with pytest.raises(StateError, match=r"no weighting network in .*bad"):
            load_network(path)
    np.savez(path.with_suffix(".npz"), about=np.zeros(3))
    with pytest.raises(StateError):
        load_network(path.with_suffix(".npz"))
    for about in {"format": "other", "version": 1}, {"format": "weighted_stream weighting network", "version": 2}, []:
        with path.open("wb") as file:
            np.savez(file, about=np.frombuffer(json.dumps(about).encode(), np.uint8))
        with pytest.raises(StateError, match="DataWeightingModel"):
            load_network(path)
    with pytest.raises(FileNotFoundError):
        load_network(tmp_path / "nowhere")


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("evil-was-here"),))


def test_nothing_in_a_file_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pickled").write_bytes(pickle.dumps(Evil()))
    with (tmp_path / "objects").open("wb") as file:
        np.savez(file, about=np.array([Evil()], dtype=object))
    for name in "pickled", "objects":
        with pytest.raises(StateError):
            load_network(tmp_path / name)
    assert not (tmp_path / "evil-was-here").exists()
