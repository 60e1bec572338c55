"""Settings of JAX, and of what it computes with, that change numbers: part of a run's identity.

Some make another program of the same code (`PROGRAM`): with ``JAX_ENABLE_X64=1`` the numbers are
wider and other ones are drawn. Others round otherwise, as another processor does (`ROUNDING`,
`VARIABLES`). All are noted only where they are not JAX's own. So a plain run has none, and neither
have the runs from before they were noted, whose programs are JAX's own by the hashes that they
keep. A test tells of settings in a new version of JAX that stand in no list.
"""

from __future__ import annotations

import enum
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from plasticity import configuration

PROGRAM: Mapping[str, Any] = {
    "jax_enable_x64": False,
    "jax_explicit_x64_dtypes": "warn",
    "jax_numpy_dtype_promotion": "standard",
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_high_dynamic_range_gumbel": False,
    "jax_accurate_erf_inv": False,
}
"""Settings that decide what is drawn and in which types, with JAX's own values."""

ROUNDING: Mapping[str, Any] = {
    # what is traced
    "jax_disable_jit": False,
    "eager_constant_folding": False,
    "jax_use_direct_linearize": True,
    "jax_softmax_custom_jvp": False,
    "jax_custom_jvp3": False,
    "jax_custom_vjp3": False,
    "jax_scan3": False,
    "jax_remat3": False,
    "jax_remat_barrier_no_cotangents": False,
    "jax_use_simplified_jaxpr_constants": False,
    "jax_embedded_constants_max_bytes": 32,
    # how it is lowered and compiled
    "jax_use_hlo_logistic_lowering": None,
    "jax_use_magma": "auto",
    "jax_bcoo_cusparse_lowering": False,
    "jax_ragged_dot_use_ragged_dot_instruction": True,
    "jax_ragged_dot_use_gpu_pallas_triton_lowering": False,
    "jax_pallas_use_mosaic_gpu": True,
    "jax_compiler_enable_remat_pass": True,
    "jax_enable_pgle": False,
    "jax_disable_most_optimizations": False,
    "jax_optimization_level": "UNKNOWN",
    "jax_exec_time_optimization_effort": 0.0,
    "jax_memory_fitting_effort": 0.0,
    "jax_memory_fitting_level": "O2",
    # An XLA:CPU of several devices cuts sums into more parts, whatever cores there are.
    "jax_num_cpu_devices": -1,
}
"""Settings by which the same numbers may be rounded otherwise, with JAX's own values."""

PRECISION = "jax_default_matmul_precision"
"""The precision of products, which a run notes with its device; JAX's own is None."""

VARIABLES = (
    "XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE", "NPROC", "PJRT_NPROC",
    "OPENBLAS_CORETYPE", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "NPY_DISABLE_CPU_FEATURES",
)  # fmt: skip
"""Variables that XLA, CUDA, OpenBLAS, MKL and numpy read: flags, precision, threads, kernels."""

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables that say how many threads linear algebra takes where a process is not pinned."""

_OWN = {**PROGRAM, **ROUNDING}
_HARMLESS = re.compile(r"xla_(\w+_)?dump_\w+|xla_gpu_cuda_data_dir")


def differing() -> dict[str, Any]:
    """Return the settings of this thread that change numbers and are not JAX's own.

    >>> import jax
    >>> from plasticity import jax_settings
    >>> with jax.enable_x64(True):
    ...     jax_settings.differing()["jax_enable_x64"]
    True
    """
    found = _not_own()
    words = {name: os.environ.get(name, "").strip() for name in VARIABLES}
    words["XLA_FLAGS"] = flags(words["XLA_FLAGS"])
    found |= {name: text for name, text in words.items() if text}
    return dict(sorted(found.items()))


def _not_own() -> dict[str, Any]:
    return {name: value for name, value in _current().items() if value != _OWN[name]}


def _current() -> dict[str, Any]:
    """Return the settings that this version of JAX has, as they can be written."""
    return {name: _plain(value) for name, value in _values().items() if name in _OWN}


def _values() -> dict[str, Any]:
    import jax  # whoever only reads what runs have noted need not wait for it

    found: dict[str, Any] = jax.config.values
    return found


def _plain(value: Any) -> Any:
    return value.name.lower() if isinstance(value, enum.Enum) else value


def flags(text: str) -> str:
    """Return the XLA flags that change numbers, sorted; of one that is given twice the last counts.

    A text that does not begin with a dash is the name of a file with flags, as for XLA. Flags that
    only dump programs, or say where CUDA lies, are left out.

    >>> from plasticity import jax_settings
    >>> jax_settings.flags("--xla_dump_to=here --xla_cpu_enable_fast_math --xla_a=1 --xla_a=2")
    '--xla_a=2 --xla_cpu_enable_fast_math'
    """
    if text.strip() and not text.strip().startswith("-"):
        try:
            text = Path(text.strip()).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):  # XLA will say so
            return text.strip()
    try:
        words = shlex.split(text)
    except ValueError:
        words = text.split()
    named = {word.partition("=")[0].lstrip("-"): word for word in words}
    return " ".join(named[name] for name in sorted(named) if not _HARMLESS.fullmatch(name))


def program(noted: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return those of the settings that a run has ``noted`` that make another program of its code.

    >>> from plasticity import jax_settings
    >>> jax_settings.program({"jax_enable_x64": True, "XLA_FLAGS": "--xla_a=1"})
    {'jax_enable_x64': True}
    """
    return {name: value for name, value in (noted or {}).items() if name in PROGRAM}


def traced() -> dict[str, Any]:
    """Return the settings of this thread, not JAX's own, on which a traced program may depend.

    >>> import jax
    >>> from plasticity import jax_settings
    >>> with jax.default_matmul_precision("highest"):
    ...     jax_settings.traced()["jax_default_matmul_precision"]
    'highest'
    """
    precision = _values()[PRECISION]
    return _not_own() | ({PRECISION: precision} if precision else {})


def changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return ``name: was → now`` for each setting that differs; where one is missing it is JAX's.

    Other entries are compared too, such as the packages of a run.

    >>> from plasticity import jax_settings
    >>> jax_settings.changes({"cores": 2}, {"cores": 2, "jax_enable_x64": True})
    'jax_enable_x64: False → True'
    """
    own = {**_OWN, PRECISION: None, **dict.fromkeys(VARIABLES, "")}
    known = {name: own[name] for name in {**was, **now} if name in own}
    return configuration.differences({**known, **was}, {**known, **now})


def variables() -> dict[str, str | None]:
    """Return the environment of a process that is to compute under the settings of this thread.

    A variable of which the value is None must not be there. What the process would inherit anyway
    is left out.

    >>> import jax
    >>> from plasticity import jax_settings
    >>> with jax.enable_x64(True):
    ...     jax_settings.variables()["JAX_ENABLE_X64"]
    'True'
    """
    own, now = {**_OWN, PRECISION: None}, {**_current(), PRECISION: _values()[PRECISION]}
    return {
        name.upper(): None if value is None else str(value)
        for name, value in now.items()
        if value != own[name] or name.upper() in os.environ
    }


def key() -> tuple[tuple[str, Any], ...]:
    """Return what to add to the key of a cache of arrays or programs: the settings of this thread.

    >>> import jax
    >>> from plasticity import jax_settings
    >>> with jax.enable_x64(True):
    ...     inside = jax_settings.key()
    >>> with jax.enable_x64(False):
    ...     inside == jax_settings.key()
    False
    """
    return tuple(sorted(traced().items()))


def inherited() -> Callable[[], AbstractContextManager[None]]:
    """Return what makes a block of another thread compute under the settings of this one.

    A setting that was made with a context manager, such as `jax.enable_x64`, is that thread's
    alone.

    >>> import jax
    >>> from plasticity import jax_settings
    >>> with jax.enable_x64(True):
    ...     as_here = jax_settings.inherited()
    >>> with as_here():
    ...     jax.numpy.ones(1).dtype
    dtype('float64')
    """
    import jax

    here = _values()

    @contextmanager
    def as_here() -> Iterator[None]:
        there = _values()
        with ExitStack() as stack:
            for name in (*_current(), PRECISION):
                manager = getattr(jax, name.removeprefix("jax_"), None)
                if manager is not None and there[name] != here[name]:
                    stack.enter_context(manager(here[name]))
            yield

    return as_here
