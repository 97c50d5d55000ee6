import flax.linen as nn
import jax
import jax.numpy as jnp
import optax


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm(dtype=jnp.bfloat16)(x)
        x = x + nn.MultiHeadDotProductAttention(12, dtype=jnp.bfloat16)(y)
        y = nn.LayerNorm(dtype=jnp.bfloat16)(x)
        return x + nn.Dense(768, dtype=jnp.bfloat16)(nn.gelu(nn.Dense(3072, dtype=jnp.bfloat16)(y)))


class ViT(nn.Module):
    @nn.compact
    def __call__(self, images):
        x = nn.Conv(768, (16, 16), (16, 16), dtype=jnp.bfloat16)(images).reshape(len(images), 196, 768)
        x = x + self.param("position", nn.initializers.normal(0.02), (196, 768)).astype(jnp.bfloat16)
        for _ in range(12):
            x = Block()(x)
        return nn.Dense(1000)(nn.LayerNorm()(x).mean(1))


model, optimiser = ViT(), optax.adamw(1e-3)


def train_step(parameters, moments, images, labels):
    def loss(parameters):
        return optax.softmax_cross_entropy_with_integer_labels(model.apply(parameters, images), labels).mean()

    cost, gradients = jax.value_and_grad(loss)(parameters)
    updates, moments = optimiser.update(gradients, moments, parameters)
    return optax.apply_updates(parameters, updates), moments, cost


images, labels = jax.ShapeDtypeStruct((32, 224, 224, 3), jnp.bfloat16), jax.ShapeDtypeStruct((32,), jnp.int32)
parameters = jax.eval_shape(model.init, jax.random.key(0), images)
moments = jax.eval_shape(optimiser.init, parameters)
step = jax.jit(train_step, donate_argnums=(0, 1))
