"""Settings make the networks and heads of their sizes, and refuse what cannot be built."""

from __future__ import annotations

from typing import Any

import pytest

from plasticity.configuration import ConfigError
from plasticity.cures.settings import ShrinkAndPerturb
from plasticity.networks import architectures, heads, resnet, vit
from plasticity.networks.settings import CNN, MLP, ResNet18, TwoHot, ViT


def test_networks_have_the_sizes_of_the_settings() -> None:
    norms = {"layer_norm": True, "spectral_norm": True}
    assert MLP(width=8, **norms).module(50) == architectures.MLP((8, 8), 50, **norms)
    cnn = CNN(channels=4, width=8, stride=1, padding="VALID", **norms)
    assert cnn.module(50) == architectures.CNN(
        50, (4, 4), strides=(1, 1), padding="VALID", widths=(8, 8), **norms
    )
    for width, groups in ((4, 4), (48, 16), (64, 32)):  # 32 where they divide the width
        expected = resnet.ResNet18(10, width, groups, **norms)
        assert ResNet18(width=width, **norms).module(10) == expected
    for training in (False, True):
        small = vit.ViT(10, width=8, feed_forward=8, heads=2, training=training)
        assert ViT(width=8, feed_forward=8, heads=2).module(10, training) == small


def test_bins_are_evenly_spaced() -> None:
    assert TwoHot(bins=5, low=-1.0, high=3.0).head() == heads.TwoHot((-1.0, 0.0, 1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (MLP, {"width": 0}, "width = 0: must be above 0"),
        (MLP, {"kind": "cnn"}, "kind = 'cnn': expected one of mlp"),
        (CNN, {"padding": "same"}, "padding = 'same'"),
        (ResNet18, {"width": 8.0}, "width = 8.0: expected a whole number"),
        (ViT, {"width": 8, "heads": 3}, "width = 8: must be a multiple of heads = 3"),
        (TwoHot, {"bins": 1}, "two or more ascending values"),
        (TwoHot, {"low": 110.0}, "two or more ascending values"),
        (ShrinkAndPerturb, {"shrink": -0.1}, "shrink = -0.1: must not be below 0"),
        (ShrinkAndPerturb, {"perturb": -1.0}, "perturb = -1.0: must not be below 0"),
    ],
)
def test_what_cannot_be_built_is_refused(kind: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**fields)
