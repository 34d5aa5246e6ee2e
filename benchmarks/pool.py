"""A training step of the ConvNet with PyTorch's average pooling and with ours.

The layers are exchanged in the same network; both must give the same gradient.

    python benchmarks/pool.py --threads 1 --device cpu
"""

import torch
from timing import finish, interleaved, parser, start
from torch import nn

from condense_core.networks import FeatureNetwork, build_network


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--widths", type=int, nargs="+", default=[16, 32, 128])
    options.add_argument("--batch", type=int, default=64)
    arguments = options.parse_args()
    device = start(arguments)
    images = torch.randn(arguments.batch, 3, 32, 32, device=device)
    seconds, ratios = {}, {}
    for width in arguments.widths:
        ours = convnet(width).to(device)
        plain = with_plain_pools(convnet(width)).to(device)
        torch.testing.assert_close(gradient(ours, images), gradient(plain, images))
        taken = interleaved(
            {
                "ours": lambda net=ours: gradient(net, images),
                "plain": lambda net=plain: gradient(net, images),
            },
            rounds=arguments.rounds,
            device=device,
        )
        seconds[f"width {width}"] = taken["ours"]
        ratios[f"width {width}"] = taken["plain"] / taken["ours"]
    result = {
        "reference": "torch.nn.AvgPool2d",
        "seconds_per_step": seconds,
        "ratio_avg_pool_over_ours": ratios,
    }
    finish(arguments, device, result)


def convnet(width: int) -> FeatureNetwork:
    return build_network(
        "convnet", image_shape=(3, 32, 32), num_classes=10, width=width, seed=0
    )


def with_plain_pools(network: FeatureNetwork) -> FeatureNetwork:
    """The network with PyTorch's own layer in every block, in place."""
    for block in network.blocks:
        block[-1] = nn.AvgPool2d(2)
    return network


def gradient(network: FeatureNetwork, images: torch.Tensor) -> torch.Tensor:
    """Of all parameters, after a forward and a backward pass."""
    loss = network(images).logsumexp(dim=1).sum()
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    return torch.cat([each.flatten() for each in gradients])


if __name__ == "__main__":
    main()
