"""The finite network whose limit the hierarchical kernels are."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["WideCNN"]


class WideCNN(nn.Module):
    """Hierarchical convolutional ReLU network in the NTK parametrisation, with one output.

    Weights are standard normal, and each layer divides by the root of its fan-in and multiplies by sqrt(2). As the
    width grows, outputs become a Gaussian process with `HierarchicalKernel`'s NNGP over draws of the weights, and the
    tangent kernel of every draw tends to its NTK.

    Parameters
    ----------
    filter_sizes : sequence of int
        (s_1, ..., s_L), without overlaps.
    width : int
        Channels of every hidden layer.
    positions : int, default 1
        Positions p_L that the last hidden layer leaves: inputs have p_L s_2 ... s_L patches.
    pooling : bool, default False
        Average over these positions before the dense layer, which otherwise has weights of its own for each.
    generator : torch.Generator, optional
        Of the weights.
    dtype : torch.dtype

    Raises
    ------
    ValueError
        For a width, positions or sizes below 1.
    """

    def __init__(
        self,
        filter_sizes: Sequence[int],
        width: int,
        positions: int = 1,
        *,
        pooling: bool = False,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if min(width, positions) < 1 or not filter_sizes or min(filter_sizes) < 1:
            raise ValueError(
                "WideCNN: wanted width, positions and filter sizes of at least 1, "
                f"got {width}, {positions} and {filter_sizes}"
            )
        self.filter_sizes, self.width, self.positions, self.pooling = tuple(filter_sizes), width, positions, pooling

        def normal(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator, dtype=dtype))

        fans = [filter_sizes[0], *(width * s for s in filter_sizes[1:])]
        self.filters = nn.ParameterList([normal(fan, width) for fan in fans])
        self.readout = normal(1 if pooling else positions, width)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (n,) of inputs (n, p, s_1) whose patches have length 1.

        Raises
        ------
        ValueError
            For inputs of another form.
        """
        patches = self.positions * math.prod(self.filter_sizes[1:])
        if tuple(x.shape[1:]) != (patches, self.filter_sizes[0]):
            raise ValueError(f"WideCNN: inputs must be (n, {patches}, {self.filter_sizes[0]}), got {tuple(x.shape)}")
        # Patches have length 1, whatever they are made of: only channels and positions behind them are averaged.
        fan = 1
        for layer, weights in enumerate(self.filters):
            if layer:
                x = x.unflatten(1, (-1, self.filter_sizes[layer])).flatten(2)
                fan = x.shape[2]
            x = torch.relu(x @ weights * (2.0 / fan) ** 0.5)
        if self.pooling:
            x = x.mean(1, keepdim=True)
        return (x * self.readout).sum((1, 2)) / self.readout.numel() ** 0.5
