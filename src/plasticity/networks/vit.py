"""The small vision transformer of Lyle et al. (2023, A.2)."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from plasticity.networks.architectures import Forward, _conv
from plasticity.networks.convolution import convolve
from plasticity.networks.dropout import DROPOUT, dropout_key, start_counter
from plasticity.shapes import Array, Float


class ViT(nn.Module):
    """A small vision transformer (Dosovitskiy et al. 2020; Lyle et al. 2023, A.2).

    Patches of three pixels, a model of 256 dimensions, a feed-forward layer of 1,024, one block and
    dropout of .1 are the paper's. Where it is silent, we follow Dosovitskiy et al. Layer norms come
    before attention, before the feed-forward layer and at the end. The nonlinearity is GELU, the
    position embedding is learned, the final state of a class token is the features, and heads have
    64 dimensions (so four). Dropout follows the position embedding and every dense layer except
    queries, keys and values; attention weights have none. Images with sides that are no multiple of
    the patch are padded with zeros as SAME does it, 28 pixels to 30 and 32 to 33, so that no pixel
    is lost. Dense kernels, the output layer's too, start LeCun-normal, as in `MLP`.

    Every arm has those layer norms. ``layer_norm`` adds one after each fully connected hidden
    layer: after the embedding of patches, and before the GELU.

    ``training`` turns dropout on. Masks are functions of a counter kept with the parameters, which
    goes up at each optimizer step, so that ``apply(variables, x)`` needs no random key. The losses
    that an agent and a probe's fit learn from see dropout; acting, the target network, statistics,
    C_k and curvature do not.

    >>> import jax, jax.numpy as jnp
    >>> from plasticity.networks.vit import ViT
    >>> network, images = ViT(outputs=10), jnp.ones((2, 28, 28, 1))
    >>> found, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), images)
    >>> found.output.shape, [layer.shape for layer in found.hidden], sorted(variables)
    ((2, 10), [(2, 1024), (2, 256)], ['dropout', 'params'])
    """

    outputs: int
    patch: int = 3
    width: int = 256
    feed_forward: int = 1024
    heads: int = 4
    dropout: float = 0.1
    layer_norm: bool = False
    spectral_norm: bool = False  # of the embedding of patches
    training: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"]) -> Forward:
        """Return the outputs, shape (batch, outputs), and two layers' activations.

        These are the feed-forward layer after the GELU, averaged over tokens, (batch,
        feed_forward), and the features, (batch, width). A GELU is never exactly off and features
        are normalised: dead and linearised units mean nothing here; ranks, norms and dormant units
        do. Statistics of weights count the class token and the positions as kernels.
        """
        drop = self._dropout()
        embed = _conv(self.spectral_norm)(
            self.width, (self.patch, self.patch), (self.patch, self.patch), "SAME",
            conv_general_dilated=convolve, name="embedding",
        )  # fmt: skip
        x = embed(x)
        x = x.reshape(x.shape[0], -1, self.width)
        if self.layer_norm:
            x = nn.LayerNorm(name="embedding_norm")(x)
        token = self.param("class_token", nn.initializers.zeros, (1, 1, self.width))
        token = jnp.broadcast_to(token, (x.shape[0], 1, self.width))
        x = jnp.concatenate([token.astype(x.dtype), x], axis=1)
        position = nn.initializers.normal(0.02)
        x = drop(x + self.param("positions", position, (1, x.shape[1], self.width)), 0)
        x = x + drop(self._attention(nn.LayerNorm(name="attention_norm")(x)), 1)
        y = nn.LayerNorm(name="feed_forward_norm")(x)
        y = nn.Dense(self.feed_forward, name="feed_forward_in")(y)
        if self.layer_norm:
            y = nn.LayerNorm(name="hidden_norm")(y)
        hidden = nn.gelu(y, approximate=False)
        x = x + drop(nn.Dense(self.width, name="feed_forward_out")(drop(hidden, 2)), 3)
        features = nn.LayerNorm(name="features_norm")(x)[:, 0]
        output = nn.Dense(self.outputs, name="head")(features)
        return Forward(output, (hidden.mean(axis=1), features))

    def _attention(
        self, x: Float[Array, "batch tokens width"]
    ) -> Float[Array, "batch tokens width"]:
        """Let every token see all tokens.

        Made of plain dense layers, not of flax's attention module with its general ones: for plain
        ones `gradient_covariance` is fast, and statistics of weights see matrices.
        """
        query, key, value = (
            nn.Dense(self.width, name=name)(x).reshape(*x.shape[:2], self.heads, -1)
            for name in ("query", "key", "value")
        )
        mixed = nn.dot_product_attention(query, key, value)
        return nn.Dense(self.width, name="projection")(mixed.reshape(x.shape))

    def _dropout(self) -> Callable[[Array, int], Array]:
        """Return dropout as a function of its input and the place; each place has its own masks."""
        counter = self.variable(DROPOUT, "counter", lambda: start_counter(self.make_rng("params")))
        step = dropout_key(counter.value)

        def drop(x: Array, place: int) -> Array:
            layer = nn.Dropout(self.dropout, deterministic=not self.training)
            found: Array = layer(x, rng=jax.random.fold_in(step, place))
            return found

        return drop
