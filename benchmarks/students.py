"""One window of the unrolled objective: its loss and the gradient at the images.

The reference differentiates PyTorch's own group norm twice and launches every kernel
from Python. Ours has the second derivative in closed form and, on CUDA, replays the
window as a graph.

    python benchmarks/students.py --images 100 --width 128 --window 20
"""

import torch
from timing import finish, interleaved, parser, start

from condense_core.augment import SiameseAugment
from condense_core.config import UnrolledConfig
from condense_core.networks.norm import InstanceNorm
from condense_core.objectives.unrolled import StudentPool

CLASSES = 10
REAL = 500
AUGMENT = "color_crop_cutout_flip_scale_rotate"


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--shape", type=int, nargs=3, default=[3, 32, 32])
    options.add_argument("--images", type=int, default=100, help="synthetic ones")
    options.add_argument("--width", type=int, default=128)
    options.add_argument("--window", type=int, default=20)
    arguments = options.parse_args()
    device = start(arguments)
    rng = torch.Generator().manual_seed(0)
    images, real = (
        torch.randn(count, *arguments.shape, generator=rng).to(device)
        for count in (arguments.images, REAL)
    )
    labels, real_labels = (
        torch.arange(count, device=device) % CLASSES
        for count in (arguments.images, REAL)
    )

    def pool(graphs: bool) -> StudentPool:
        config = UnrolledConfig(
            students=1,
            window=arguments.window,
            max_age=10**6,  # never a new student
            width=arguments.width,
        )
        return StudentPool(
            config,
            image_shape=tuple(arguments.shape),
            num_classes=CLASSES,
            augment=SiameseAugment.from_text(AUGMENT),
            seed=0,
            device=device,
            graphs=graphs,
        )

    plain, ours = pool(graphs=False), pool(graphs=device.type == "cuda")
    for module in plain.network.modules():
        if isinstance(module, InstanceNorm):
            module.twice = None

    def slope(students: StudentPool) -> torch.Tensor:
        leaf = images.clone().requires_grad_()
        loss = students.loss(0, leaf, labels, real, real_labels)
        return torch.autograd.grad(loss, leaf)[0]

    expected, found = slope(plain), slope(ours)
    seconds = interleaved(
        {"plain": lambda: slope(plain), "ours": lambda: slope(ours)},
        rounds=arguments.rounds,
        device=device,
    )
    difference = (found - expected).norm() / expected.norm()
    finish(
        arguments,
        device,
        {
            "reference": "group norm differentiated twice by PyTorch, without graphs",
            "seconds_per_window": seconds["ours"],
            "plain_seconds_per_window": seconds["plain"],
            "ratio_plain_over_ours": seconds["plain"] / seconds["ours"],
            "relative_difference_of_gradients": difference.item(),
        },
    )


if __name__ == "__main__":
    main()
