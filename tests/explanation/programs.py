"""Programs that the tests of `explain` share, and rows of the table `launches` made by hand."""

import json

import jax
import jax.numpy as jnp

BF16, F32 = jnp.bfloat16, jnp.float32


def array(*shape, dtype=F32, **more):
    return jax.ShapeDtypeStruct(shape, dtype, **more)


@jax.tree_util.register_pytree_with_keys_class
class Dense:
    """A module as equinox has them: a pytree whose leaves are its weights and its activation, a function."""

    def __init__(self, weight, activation):
        self.weight, self.activation = weight, activation

    def __call__(self, x):
        return self.activation(x @ self.weight)

    def off(self):
        """The same with a flag in place of a function: a number, to JAX."""
        return Dense(self.weight, False)

    def tree_flatten_with_keys(self):
        key = jax.tree_util.GetAttrKey
        return ((key("weight"), self.weight), (key("activation"), self.activation)), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


def attention_output(q, k, v, weight):
    """The second half of an attention block: with 12 heads and 197 tokens XLA's tiling of 0.10.2 and 0.11.2 fails."""
    return jnp.einsum("bthd,hdo->bto", jax.nn.dot_product_attention(q, k, v), weight)


def attention_arguments():
    one = array(8, 197, 12, 64, dtype=BF16)
    return one, one, one, array(12, 64, 768, dtype=BF16)


def row(name, inputs, results=(), refused=(), **columns):
    """A row of the table `launches`, without the columns that came after the first schema."""
    read = sum(size for _, size in inputs)
    plain = {"index": 0, "name": name, "kind": "loop", "ops": "add", "source_ops": "sub,mul"}
    flows = {"inputs": json.dumps(inputs), "results": json.dumps(results), "refused": json.dumps(refused)}
    return {**plain, "read_bytes": read, "write_bytes": 4096, **flows, **columns}
