"""Average pooling, at the speed of the memory on a CPU too.

Shape legend: B batch, C channels, H height, W width.
"""

from torch import Tensor, nn


class AveragePool(nn.AvgPool2d):
    """Mean of 2x2 pixels: `torch.nn.AvgPool2d(2)`.

    PyTorch's kernel for a CPU goes pixel by pixel, forward and backward, and took a
    quarter of a training step of a narrow ConvNet. Two sums of neighbours, of rows and
    then of columns, take a sixth of that forward, half of it with the backward pass,
    and a sixth where that is differentiated. (A convolution of every channel alone is
    differentiated twice channel by channel, which is slow.)
    """

    def __init__(self) -> None:
        """A window of 2 and a step of 2; an odd last row or column is left out."""
        super().__init__(2)

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H // 2, W // 2)."""
        if input.device.type != "cpu":
            pooled: Tensor = super().forward(input)
            return pooled
        values = input.float() if input.dtype.itemsize < 4 else input
        rows, columns = values.shape[-2] // 2, values.shape[-1] // 2
        values = values[..., : 2 * rows, : 2 * columns]
        upper, lower = values.unflatten(-2, (rows, 2)).unbind(-2)
        left, right = (upper + lower).unflatten(-1, (columns, 2)).unbind(-1)
        mean: Tensor = (left + right) / 4
        return mean.to(input.dtype)
