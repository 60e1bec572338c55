"""A `jax.jit` for tests of toys: most of their time is compiling, which need not be thorough."""

from __future__ import annotations

from functools import partial

import jax

OPTIONS = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}

compiled = partial(jax.jit, compiler_options=OPTIONS)
