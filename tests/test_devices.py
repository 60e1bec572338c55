"""Both forms of mapping over lanes give the same."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plasticity import devices

KEYS = jax.random.split(jax.random.key(0), 3)
LANES = {"a": jnp.arange(6.0).reshape(3, 2), "b": jnp.arange(3)}


def function(lane: dict[str, jax.Array], key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    return jnp.sum(lane["a"]) * lane["b"], {"noise": jax.random.uniform(key, (4,))}


@pytest.mark.parametrize("cpu", [True, False])
def test_lanes_are_mapped_one_by_one_and_stacked(
    cpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "is_cpu", lambda: cpu)
    total, rest = devices.map_lanes(function, LANES, KEYS)
    np.testing.assert_array_equal(total, [0, 5, 18])
    for k in range(3):
        expected = function({"a": LANES["a"][k], "b": LANES["b"][k]}, KEYS[k])
        np.testing.assert_array_equal(rest["noise"][k], expected[1]["noise"])


@pytest.mark.parametrize("cpu", [True, False])
def test_lanes_of_different_numbers_are_refused(cpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "is_cpu", lambda: cpu)
    with pytest.raises(ValueError, match=r"leading axes differ: \[2, 3\]"):
        devices.map_lanes(function, LANES, KEYS[:2])


def test_the_tests_run_where_they_say() -> None:
    assert devices.is_cpu() == (jax.devices()[0].platform == "cpu")
