"""A ResNet-50 in flax linen and its train step, as image classifiers are trained: bfloat16, momentum, weight decay."""

from collections.abc import Callable, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax


class Bottleneck(nn.Module):
    features: int
    strides: int
    train: bool

    @nn.compact
    def __call__(self, x):
        conv = partial(nn.Conv, use_bias=False, dtype=jnp.bfloat16)
        norm = partial(nn.BatchNorm, use_running_average=not self.train, momentum=0.9, dtype=jnp.bfloat16)
        y = nn.relu(norm()(conv(self.features, (1, 1))(x)))
        y = nn.relu(norm()(conv(self.features, (3, 3), self.strides)(y)))
        y = norm(scale_init=nn.initializers.zeros_init())(conv(4 * self.features, (1, 1))(y))
        if x.shape != y.shape:
            x = norm(name="norm_proj")(conv(4 * self.features, (1, 1), self.strides, name="conv_proj")(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    stages: Sequence[int] = (3, 4, 6, 3)
    features: int = 64
    classes: int = 1000
    block: Callable[..., nn.Module] = Bottleneck

    @nn.compact
    def __call__(self, x, train=True):
        x = nn.Conv(self.features, (7, 7), 2, use_bias=False, dtype=jnp.bfloat16, name="conv_init")(x)
        x = nn.relu(nn.BatchNorm(not train, momentum=0.9, dtype=jnp.bfloat16, name="norm_init")(x))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        for stage, blocks in enumerate(self.stages):
            for block in range(blocks):
                x = self.block(self.features * 2**stage, 2 if stage and not block else 1, train)(x)
        return nn.Dense(self.classes, dtype=jnp.float32)(x.mean((1, 2)))


def train_step(batch=32, pixels=224, **sizes):
    """The step (jitted, its state donated) and the shapes of its arguments: state, images, labels."""
    model, optimiser = ResNet(**sizes), optax.sgd(0.1, momentum=0.9, nesterov=True)
    images = jax.ShapeDtypeStruct((batch, pixels, pixels, 3), jnp.bfloat16)

    def initial():
        variables = model.init(jax.random.key(0), jnp.zeros(images.shape, images.dtype))
        return variables["params"], variables["batch_stats"], optimiser.init(variables["params"])

    def loss(parameters, statistics, images, labels):
        logits, updated = model.apply(
            {"params": parameters, "batch_stats": statistics}, images, mutable=["batch_stats"]
        )
        decay = sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(parameters) if x.ndim > 1)
        cost = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean() + 5e-5 * decay
        return cost, updated["batch_stats"]

    @partial(jax.jit, donate_argnums=0)
    def step(state, images, labels):
        parameters, statistics, moments = state
        (cost, statistics), gradients = jax.value_and_grad(loss, has_aux=True)(parameters, statistics, images, labels)
        updates, moments = optimiser.update(gradients, moments, parameters)
        return (optax.apply_updates(parameters, updates), statistics, moments), cost

    return step, (jax.eval_shape(initial), images, jax.ShapeDtypeStruct((batch,), jnp.int32))


def main():
    """Explains the whole ResNet-50 and prints the report, and the seconds of the processor that it took."""
    import resource

    from normbench import explain

    step, arguments = train_step()
    report = explain(step, *arguments)
    text = repr(report)
    compilation = report.compilation
    explained = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    print(text)
    print(
        f"{len(text.splitlines())} lines; this process {explained:.1f} s of CPU with its imports; elapsed: lowering "
        f"{compilation.lower_s:.1f} s, compiling {compilation.compile_s:.1f} s, reading {compilation.read_s:.1f} s"
    )


if __name__ == "__main__":
    main()
