"""Array annotations: from jaxtyping where it is installed, inert where it is not.

Tests check shapes against these annotations. A GPU node needs no jaxtyping to run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jax import Array

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Key, UInt8
else:
    try:
        from jaxtyping import Bool, Float, Int, Key, UInt8
    except ModuleNotFoundError:

        class _Inert:
            def __class_getitem__(cls, item: Any) -> Any:
                return Any

        Bool = Float = Int = Key = UInt8 = _Inert

__all__ = ["Array", "Bool", "Float", "Int", "Key", "UInt8"]
