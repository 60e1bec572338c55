"""What is drawn by a key does not depend on how wide numbers are unless it is a fraction."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import plasticity
from plasticity.chapters.optimizer_instability import run as optimizer_instability
from plasticity.measure import probe
from plasticity.networks import dropout
from plasticity.worlds import classification_mdp, image_sets

PACKAGE = Path(plasticity.__file__).parent
KEY = jax.random.key(0)
MDP = classification_mdp.make("true_label", jnp.arange(20) % 10, KEY)


def minibatches() -> Any:
    """Return what `probe.fit` reaches: other minibatches would lead elsewhere."""
    inputs, target = jnp.eye(8), jnp.arange(8.0)
    fitted = probe.fit(
        lambda w, x: x @ w, jnp.zeros(8), inputs, target, optax.sgd(0.5), KEY,
        steps=50, batch_size=2,
    )  # fmt: skip
    return fitted.loss, fitted.curve


def batches() -> Any:
    """Return what some steps of the first chapter lead to."""
    inputs, labels = jnp.eye(8, dtype=jnp.float32), jnp.arange(8, dtype=jnp.int32)
    how = optimizer_instability.Steps(4, 2, 0.01, 0.9, 0.999, 1e-8, steps=10, traced=False)
    learner, _ = optimizer_instability.begin(4, inputs, KEY)
    return optimizer_instability.take(how, 0.0, inputs, labels, learner, KEY)[0].params


DRAWN: dict[str, Callable[[], Any]] = {
    "the probe's minibatches": minibatches,
    "a chapter's minibatches": batches,
    "the first state": lambda: classification_mdp.reset(KEY, MDP).state,
    "the counter of dropout": lambda: dropout.start_counter(KEY),
    "random labels": lambda: image_sets.random_labels(KEY, 50),
    "permuted labels": lambda: image_sets.permuted_labels(KEY, np.arange(50) % 10),
    "a sample without replacement": lambda: jax.random.permutation(KEY, 1_000)[:50],
}


@pytest.mark.parametrize("what", DRAWN)
def test_it_is_the_same_in_double(what: str) -> None:
    with jax.enable_x64(False):
        narrow = jax.tree.map(np.asarray, DRAWN[what]())
    with jax.enable_x64(True):
        wide = jax.tree.map(np.asarray, DRAWN[what]())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3), narrow, wide)


def test_no_integer_is_drawn_without_a_type() -> None:
    """By default it is as wide as numbers are, and wider ones are others."""
    calls = [
        (path, node)
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("random.randint")
    ]
    assert len(calls) > 5
    for path, call in calls:
        typed = len(call.args) > 4 or "dtype" in {word.arg for word in call.keywords}
        assert typed, f"{path.name}, line {call.lineno}"
