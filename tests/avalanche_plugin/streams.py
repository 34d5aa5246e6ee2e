"""Streams, a strategy and a recorder shared by the tests on real Avalanche."""

import torch
from avalanche.benchmarks import (
    benchmark_from_datasets,
    class_incremental_benchmark,
    nc_benchmark,
)
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.models import SimpleMLP
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from PIL import Image
from torch import nn
from torchvision import transforms

from avalanche_plugin import CondensedReplayPlugin

MEM_BYTES = 60_000
ORDER = list(range(10))


def nc_stream(pairs, **options):
    options = {"n_experiences": 5, "fixed_class_order": ORDER, **options}
    return nc_benchmark(*pairs, **{"task_labels": False, **options}).train_stream


def two_element_stream(pairs):
    sets = {
        name: as_classification_dataset(data)
        for name, data in zip(("train", "test"), pairs, strict=True)
    }
    return class_incremental_benchmark(
        sets, num_experiences=5, class_order=ORDER
    ).train_stream


def plain_stream(pairs):
    train, _ = pairs
    images, labels = train.tensors
    experiences = []
    for number in range(5):
        chosen = (labels // 2) == number
        experiences.append(
            as_classification_dataset(type(train)(images[chosen], labels[chosen]))
        )
    return benchmark_from_datasets(train=experiences).train_stream


def image_stream(digits):
    """PIL images with augmentation and normalisation, as image data sets come."""
    images, labels, *_ = digits

    class Pictures(torch.utils.data.Dataset):
        targets = labels.tolist()

        def __len__(self):
            return len(self.targets)

        def __getitem__(self, index):
            grey = (images[index, 0] * 255).byte().numpy()
            return Image.fromarray(grey), self.targets[index]

    last = [transforms.ToTensor(), transforms.Normalize((0.3,), (0.4,))]
    return nc_benchmark(
        Pictures(),
        Pictures(),
        n_experiences=5,
        task_labels=False,
        fixed_class_order=ORDER,
        train_transform=transforms.Compose(
            [transforms.RandomCrop(16, padding=8), transforms.RandomInvert(0.5), *last]
        ),
        eval_transform=transforms.Compose(last),
    ).train_stream


STREAMS = {"nc": nc_stream, "two": two_element_stream, "plain": plain_stream}


def mlp():
    torch.manual_seed(0)
    return SimpleMLP(num_classes=10, input_size=256, hidden_size=64)


def silent():
    return EvaluationPlugin(accuracy_metrics(stream=True), loggers=[])


def strategy(plugins, model=None, **options):
    model = mlp() if model is None else model
    return Naive(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), 1e-3),
        criterion=nn.CrossEntropyLoss(),
        **{
            "train_mb_size": 32,
            "train_epochs": 1,
            "eval_mb_size": 256,
            "plugins": plugins,
            "evaluator": silent(),
            **options,
        },
    )


def replay(config, **options):
    return CondensedReplayPlugin(mem_bytes=MEM_BYTES, preset=config, **options)


class Recorder:
    """Keeps what the model is given, behind all other plugins."""

    def __init__(self):
        self.batches = []

    def before_forward(self, strategy, **kwargs):
        self.batches.append(list(strategy.mbatch))


class NoiseMemory:
    """A replay memory of noise: what it draws depends on the generator alone.

    It keeps the arguments that it was called with.
    """

    nbytes = 0
    classes = ((0, 0),)
    missed_energy = 0.01

    def __init__(self):
        self.observed = 0

    def to(self, device):
        pass

    def observe(self, images, labels, tasks, *, expected=None, **ours):
        self.observed += 1
        self.expected = expected
        self.told_more = ours
        return ""

    def sample(self, count, rng, *, dispersed=False):
        self.dispersed = dispersed
        labels = torch.zeros(count, dtype=torch.int64)
        return torch.rand(count, 1, 16, 16, generator=rng), labels, labels

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
