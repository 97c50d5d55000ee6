"""Instance norm is group norm with a group for each channel: its variants are those of group norm."""

from collections.abc import Callable
from typing import Any

from normbench.kernels.batch_norm.arguments import channels_of


def as_groups(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, a variant of group norm, with the signature of instance norm."""

    def instance_norm(
        x: Any, gamma: Any, beta: Any, epsilon: float = 1e-5, *, channel_axis: int = 1, activation: str = "none"
    ) -> Any:
        x, axis, _ = channels_of(x, channel_axis)
        groups = x.shape[axis]
        return function(x, gamma, beta, epsilon, groups=groups, channel_axis=channel_axis, activation=activation)

    instance_norm.__name__ = instance_norm.__qualname__ = function.__name__
    instance_norm.__doc__ = f"`naive`, as group norm with a group for each channel. {function.__doc__}"
    return instance_norm
