"""Measure how much of its ability to learn a neural network has left, and keep it able to learn.

The package behind an executable companion to Lyle et al. (2023), *Understanding Plasticity in
Neural Networks*, and Klein et al. (2024), *Plasticity Loss in Deep Reinforcement Learning: A
Survey*. What most people need is here::

    import plasticity as pl

    print(pl.probe(apply, init, params, inputs, optimizer, key))   # how much can it still learn?
    pl.snapshot(apply, params, inputs)                             # norms, ranks, dead units

The rest is in rooms, such as `plasticity.measure.curvature`; import the module that you need.
Importing the package itself costs nothing and reads no data: names are looked up when they are
used.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plasticity import cures
    from plasticity.learner import step
    from plasticity.measure.curvature import hessian, spectrum
    from plasticity.measure.gradients import gradient_covariance
    from plasticity.measure.probe import measure as probe
    from plasticity.measure.snapshot import snapshot

__version__ = "0.1.0"

__all__ = ["cures", "gradient_covariance", "hessian", "probe", "snapshot", "spectrum", "step"]

_WHERE = {
    "cures": ("plasticity.cures", None),
    "gradient_covariance": ("plasticity.measure.gradients", "gradient_covariance"),
    "hessian": ("plasticity.measure.curvature", "hessian"),
    "probe": ("plasticity.measure.probe", "measure"),
    "snapshot": ("plasticity.measure.snapshot", "snapshot"),
    "spectrum": ("plasticity.measure.curvature", "spectrum"),
    "step": ("plasticity.learner", "step"),
}
"""Where each public name is defined: module, and name there; None for a room with its modules."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _WHERE:
        raise AttributeError(f"module 'plasticity' has no attribute {name!r}")
    module, member = _WHERE[name]
    found = import_module(module)
    if member is not None:
        return getattr(found, member)
    for part in pkgutil.iter_modules(found.__path__):
        import_module(f"{module}.{part.name}")
    return found


def __dir__() -> list[str]:
    """Return the names that the package has, used or not."""
    return sorted({*globals(), *__all__})
