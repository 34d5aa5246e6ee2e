"""Index sampling on the device against an epoch of a PyTorch DataLoader.

Both deliver one epoch of normalised float batches of the same size. The data set of the
reference holds uint8 tensors and normalises each sample, the leanest a per-sample data
set can be; decoding files would add to its side alone.

    python benchmarks/loader.py --images 10000 --shape 1 28 28
"""

import torch
from timing import finish, interleaved, parser, start
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from condense_core.data import ImageData
from condense_core.data.class_sampler import ClassSampler
from condense_core.seeding import make_generator


class PerSample(Dataset):
    def __init__(self, data: ImageData) -> None:
        self._data, self._statistics = data, data.statistics()

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self._data.images[index].float() / 255.0
        return self._statistics.normalise(image), int(self._data.labels[index])


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=10_000)
    options.add_argument("--shape", type=int, nargs=3, default=[1, 28, 28])
    options.add_argument("--classes", type=int, default=10)
    options.add_argument("--batch", type=int, default=256)
    options.add_argument("--workers", type=int, default=0)
    arguments = options.parse_args()
    device = start(arguments)

    rng = make_generator(0, "benchmark-loader")
    size = (arguments.images, *arguments.shape)
    data = ImageData(
        images=torch.randint(0, 256, size, generator=rng, dtype=torch.uint8),
        labels=torch.arange(arguments.images) % arguments.classes,
        classes=tuple(str(label) for label in range(arguments.classes)),
    )
    sampler, statistics = ClassSampler(data, device), data.statistics()
    loader = DataLoader(
        PerSample(data),
        batch_size=arguments.batch,
        shuffle=True,
        num_workers=arguments.workers,
        generator=rng,
    )
    batches = len(loader)
    per_class = arguments.batch // arguments.classes

    def epoch() -> None:
        for _ in range(batches):
            statistics.normalise(sampler.batch(arguments.batch, rng)[0])

    def by_class() -> None:
        for _ in range(batches):
            statistics.normalise(sampler.sample(per_class, rng))

    def reference() -> None:
        for images, labels in loader:
            images.to(device), labels.to(device)

    seconds = interleaved(
        {"batch": epoch, "sample": by_class, "loader": reference},
        rounds=arguments.rounds,
        device=device,
    )
    finish(
        arguments,
        device,
        {
            "reference": f"DataLoader, {arguments.workers} workers, one epoch",
            "seconds": seconds,
            "ratio_loader_over_batch": seconds["loader"] / seconds["batch"],
            "ratio_loader_over_sample": seconds["loader"] / seconds["sample"],
        },
    )


if __name__ == "__main__":
    main()
