"""What is replaced is fresh, its slots too, and every other entry keeps each of its bits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import hurried
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from plasticity.cures import slots
from plasticity.learner import Learner
from plasticity.networks import architectures, trace
from plasticity.networks.state import advancing
from plasticity.networks.trace import Wiring, leaf_paths

KEY = jax.random.key(0)
ADAM = optax.adam(1e-2)
DECAYED = optax.chain(optax.add_decayed_weights(1e-5), ADAM)
OPTIMIZERS: dict[str, tuple[optax.GradientTransformation, int]] = {
    "adam": (ADAM, 2),
    "centred": (optax.rmsprop(1e-2, decay=0.9, centered=True), 2),
    "momentum": (optax.sgd(1e-2, momentum=0.9), 1),
    "sgd": (optax.sgd(1e-2), 0),
    "scheduled": (optax.adam(optax.linear_schedule(1e-2, 0.0, 10)), 2),
    "adagrad": (optax.adagrad(1e-2, initial_accumulator_value=0.3), 1),  # fresh is not zero
    "decayed": (DECAYED, 2),
    "advancing": (advancing(DECAYED), 2),
}
"""Each with how many slots it has for an entry."""

compiled = partial(
    jax.jit,
    compiler_options=hurried.UNFUSED,
)  # fmt: skip


def drawn(seed: int = 0) -> Any:
    """Parameters of several shapes and types, with a network's state beside them."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int, kind: Any = jnp.float32) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), kind)

    first = {"kernel": normal(3, 4), "bias": normal(4)}
    half = {"kernel": normal(2, 2, 4, 5, kind=jnp.bfloat16), "bias": normal(5, kind=jnp.bfloat16)}
    return {
        "params": {"first": first, "half": half, "gain": normal()},
        "spectral": {"first": {"vector": normal(4)}},
    }


def begun(params: Any, optimizer: optax.GradientTransformation, seed: int = 1) -> Learner:
    """A learner whose slots are not what they were at the start, nor equal to each other."""
    rng = np.random.default_rng(seed)

    def other(leaf: jax.Array) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            return leaf + 7
        return jnp.asarray(rng.uniform(1.0, 2.0, leaf.shape), leaf.dtype)

    opt_state = jax.tree.map(other, optimizer.init(params))
    return Learner(params, opt_state, jnp.arange(3.0), jnp.asarray(12))


def slots_of(learner: Learner) -> dict[str, dict[str, np.ndarray]]:
    """Return the slots of each parameter, by their place in the optimizer's state."""
    paths, found = leaf_paths(learner.params), {}
    for path, leaf in leaf_paths(learner.opt_state).items():
        for name in paths:
            if path.endswith("/" + name):
                found.setdefault(path.removesuffix(name), {})[name] = np.asarray(leaf)
    return found


def check(
    before: Learner, after: Learner, where: dict[str, Any], expected: Any, optimizer: Any
) -> None:
    """Entries ``where`` are the expected ones and have fresh slots; all others keep their bits."""
    assert jax.tree.structure(before) == jax.tree.structure(after)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (old.shape, old.dtype) == (new.shape, new.dtype)
    wanted = leaf_paths(expected)
    fresh = slots_of(after._replace(opt_state=optimizer.init(after.params)))
    columns = [(leaf_paths(before.params), leaf_paths(after.params), wanted)]
    now = slots_of(after)
    columns += [(old, now[slot], fresh[slot]) for slot, old in slots_of(before).items()]
    for old, new, begin in columns:
        for name in old:
            mask = np.broadcast_to(where.get(name, False), old[name].shape)
            expected_leaf = np.where(mask, begin[name], old[name])
            assert np.asarray(new[name]).tobytes() == expected_leaf.tobytes(), name
    for path, leaf in leaf_paths(before.opt_state).items():
        if not any(path.endswith("/" + name) for name in wanted):  # counts of steps
            np.testing.assert_array_equal(leaf, leaf_paths(after.opt_state)[path])
    np.testing.assert_array_equal(after.cure_state, before.cure_state)
    np.testing.assert_array_equal(after.steps, before.steps)


def masked(params: Any, where: dict[str, Any]) -> Any:
    return jax.tree.map_with_path(
        lambda path, _: where.get(jax.tree_util.keystr(path, simple=True, separator="/"), False),
        params,
    )


# Entries.

WHOLE = {"params/half/kernel": True, "params/first/bias": True, "params/gain": True}
PARTS = {
    "params/first/kernel": jnp.array([[True, False, False, True]]),  # columns
    "params/half/kernel": jnp.arange(80).reshape(2, 2, 4, 5) % 3 == 0,
    "params/half/bias": jnp.array([False, False, True, False, False]),
    "params/first/bias": True,
    "spectral/first/vector": jnp.zeros(4, bool),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("where", [WHOLE, PARTS, {}], ids=["whole", "parts", "nowhere"])
def test_what_is_replaced_is_fresh_and_the_rest_keeps_every_bit(
    name: str, where: dict[str, Any]
) -> None:
    optimizer, count = OPTIMIZERS[name]
    learner, fresh = begun(drawn(), optimizer), drawn(seed=5)
    assert len(slots_of(learner)) == count
    found = slots.replace(optimizer, masked(learner.params, where), fresh, learner)
    check(learner, found, where, fresh, optimizer)
    for path, old in leaf_paths(learner.params).items():  # there was something to replace
        new = np.asarray(leaf_paths(found.params)[path])
        assert (new != np.asarray(old)).any() == np.any(where.get(path, False)), path


def test_nowhere_is_nowhere() -> None:
    mask = slots.nowhere(drawn())
    assert jax.tree.structure(mask) == jax.tree.structure(drawn())
    assert set(jax.tree.leaves(mask)) == {False}


def test_what_is_no_number_is_left_or_taken_away() -> None:
    broken = drawn()
    kernel = broken["params"]["first"]["kernel"]
    broken["params"]["first"]["kernel"] = kernel.at[0, 0].set(jnp.nan).at[1, 1].set(jnp.inf)
    learner = begun(broken, ADAM)
    mask = masked(broken, {"params/first/kernel": jnp.array([[True, False, False, False]])})
    found = slots.replace(ADAM, mask, drawn(5), learner).params["params"]["first"]["kernel"]
    assert np.isfinite(found[:, 0]).all() and found[1, 1] == jnp.inf


@pytest.mark.parametrize("name", ["adam", "advancing"])
def test_it_can_be_compiled_and_batched(name: str) -> None:
    optimizer, _ = OPTIMIZERS[name]
    learners = [begun(drawn(seed), optimizer, seed) for seed in (1, 2)]
    stacked = jax.tree.map(lambda *both: jnp.stack(both), *learners)
    columns = jnp.array([[True, False, False, True], [False, True, False, False]])
    fresh = drawn(5)

    @compiled
    @jax.vmap
    def several(columns: jax.Array, learner: Learner) -> Learner:
        where = WHOLE | {"params/first/kernel": columns[None]}
        return slots.replace(optimizer, masked(learner.params, where), fresh, learner)

    found = several(columns, stacked)
    for k, learner in enumerate(learners):
        where = WHOLE | {"params/first/kernel": columns[k][None]}
        check(learner, jax.tree.map(lambda leaf, k=k: leaf[k], found), where, fresh, optimizer)


# Units.

X = jax.random.normal(jax.random.key(1), (7, 3))
WIRED = (Wiring("w", "b", ("v", "u"), 4), Wiring("v", None, ("z",), 2))
"""Two hidden layers of four and two units; a second layer `u` reads the first as well."""


def plain(seed: int = 0) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    shapes = {"w": (3, 4), "b": (4,), "v": (4, 2), "u": (4, 5), "z": (2, 1), "c": (1,)}
    return {name: jnp.asarray(rng.normal(size=n), jnp.float32) for name, n in shapes.items()}


def chosen_of(*layers: Sequence[int]) -> list[jax.Array]:
    return [jnp.array(layer, bool) for layer in layers]


@pytest.mark.parametrize("name", ["adam", "centred", "momentum"])
def test_renewed_units_of_arrays_that_somebody_wired_by_hand(name: str) -> None:
    optimizer, _ = OPTIMIZERS[name]
    learner, fresh = begun(plain(), optimizer), plain(5)
    chosen = chosen_of([0, 1, 0, 1], [0, 1])
    found = slots.renew_units(optimizer, WIRED, chosen, fresh, learner)
    first, second = np.array([[0, 1, 0, 1]], bool), np.array([[0, 1]], bool)
    where = {
        "w": first, "b": first[0], "v": second | first.T, "u": first.T, "z": second.T,
    }  # fmt: skip
    expected = fresh | {
        "v": jnp.where(first.T, 0, fresh["v"]),  # also between two renewed units
        "u": jnp.zeros((4, 5)), "z": jnp.zeros((2, 1)),
    }  # fmt: skip
    check(learner, found, where, expected, optimizer)


def test_none_chosen_is_none_renewed() -> None:
    learner = begun(plain(), ADAM)
    found = slots.renew_units(ADAM, WIRED, chosen_of([0] * 4, [0] * 2), plain(5), learner)
    check(learner, found, {}, plain(5), ADAM)


def test_a_dead_unit_that_is_renewed_changes_no_output() -> None:
    """To the bit, in any layer of a convolutional network; and then it is not dead any more."""
    network = architectures.CNN(2, channels=(3, 2), widths=(4, 5))
    x = jax.random.normal(KEY, (4, 6, 5, 1))
    init = compiled(partial(network.init, x=x))
    params, fresh = init(KEY), init(jax.random.key(1))
    wiring = trace.wirings(network, params, x)
    hidden = trace.unit_activations(network, wiring)
    assert len(wiring) == 4
    for layer, name in enumerate(("Conv_0", "Conv_1", "Dense_0", "Dense_1")):
        broken = jax.tree.map(jnp.copy, params)
        inside = broken["params"]["MLP_0"] if "Dense" in name else broken["params"]
        inside[name]["bias"] = inside[name]["bias"].at[1].set(-1e4)
        chosen = [jnp.arange(w.units) == (1 if k == layer else -1) for k, w in enumerate(wiring)]
        learner = begun(broken, ADAM)
        found = slots.renew_units(ADAM, wiring, chosen, fresh, learner).params
        before, after = hidden(broken, x)[layer], hidden(found, x)[layer]
        assert not before[:, 1].any() and after[:, 1].any(), name
        np.testing.assert_array_equal(np.delete(before, 1, 1), np.delete(after, 1, 1))
        ours, theirs = (network.apply(p, x).output for p in (found, broken))
        np.testing.assert_array_equal(ours, theirs)


def test_a_channel_has_a_row_for_each_position_of_a_flattened_map() -> None:
    """Found by flattening maps that are zero but in one channel."""
    network = architectures.CNN(2, channels=(3, 4), widths=(6,))
    x = jnp.zeros((1, 8, 12, 1))
    shapes = jax.eval_shape(partial(network.init, x=x), KEY)
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes)
    wiring = trace.wirings(network, shapes, x)
    kernel = params["params"]["MLP_0"]["Dense_0"]["kernel"]
    assert kernel.shape == (2 * 3 * 4, 6)
    for channel in range(4):
        chosen = [jnp.arange(w.units) == (channel if k == 1 else -1) for k, w in enumerate(wiring)]
        learner = Learner(params, ADAM.init(params), (), jnp.zeros((), jnp.int32))
        fresh = jax.tree.map(lambda leaf: 2 * leaf, params)
        found = slots.renew_units(ADAM, wiring, chosen, fresh, learner).params["params"]
        maps = np.zeros((1, 2, 3, 4))
        maps[..., channel] = 1
        read = maps.reshape(1, -1)[0] > 0
        expected = np.where(read[:, None], 0, np.ones((24, 6)))
        np.testing.assert_array_equal(found["MLP_0"]["Dense_0"]["kernel"], expected)
        assert read.sum() == 6 and np.diff(np.flatnonzero(read)).tolist() == [4] * 5
        expected = np.where(np.arange(4) == channel, 2, np.ones((3, 3, 3, 4)))
        np.testing.assert_array_equal(found["Conv_1"]["kernel"], expected)
        np.testing.assert_array_equal(found["Conv_0"]["kernel"], np.ones((5, 5, 1, 3)))


def test_rows_between_convolutions_are_channels_at_every_place_of_the_kernel() -> None:
    network = architectures.CNN(2, channels=(3, 4), widths=(6,))
    x = jnp.zeros((1, 8, 8, 1))
    shapes = jax.eval_shape(partial(network.init, x=x), KEY)
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes)
    wiring = trace.wirings(network, shapes, x)
    chosen = [jnp.arange(w.units) == (2 if k == 0 else -1) for k, w in enumerate(wiring)]
    learner = begun(params, ADAM)
    found = slots.renew_units(ADAM, wiring, chosen, params, learner).params["params"]
    expected = np.ones((3, 3, 3, 4))
    expected[:, :, 2] = 0
    np.testing.assert_array_equal(found["Conv_1"]["kernel"], expected)
    np.testing.assert_array_equal(found["MLP_0"]["Dense_0"]["kernel"], np.ones((16, 6)))


def test_units_of_several_learners_are_renewed_side_by_side() -> None:
    learners = [begun(plain(seed), ADAM, seed) for seed in (1, 2)]
    stacked = jax.tree.map(lambda *both: jnp.stack(both), *learners)
    first = jnp.array([[1, 0, 0, 0], [0, 0, 1, 1]], bool)
    second, fresh = jnp.array([[0, 1], [0, 0]], bool), plain(5)
    several = compiled(
        jax.vmap(
            lambda a, b, learner: slots.renew_units(ADAM, WIRED, [a, b], fresh, learner),
        )
    )
    found = several(first, second, stacked)
    for k, learner in enumerate(learners):
        alone = slots.renew_units(ADAM, WIRED, [first[k], second[k]], fresh, learner)
        for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(alone), strict=True):
            np.testing.assert_array_equal(ours[k], theirs)


@pytest.mark.parametrize(
    "wiring",
    [Wiring("W", "b", ("v",), 4), Wiring("w", "W", ("v",), 4), Wiring("w", "b", ("v", "W"), 4)],
    ids=["incoming", "bias", "outgoing"],
)
def test_a_path_that_the_parameters_do_not_have_is_refused(wiring: Wiring) -> None:
    learner = begun(plain(), ADAM)
    with pytest.raises(KeyError, match="W"):
        slots.renew_units(ADAM, [wiring], chosen_of([0, 1, 0, 0]), plain(5), learner)


def test_every_layer_needs_its_choice() -> None:
    learner = begun(plain(), ADAM)
    with pytest.raises(ValueError, match="shorter"):
        slots.renew_units(ADAM, WIRED, chosen_of([0, 1, 0, 0]), plain(5), learner)
