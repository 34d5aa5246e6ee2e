"""Class-incremental digits: no replay, exemplars, and generators in the same bytes.

    python examples/continual_digits.py

scikit-learn's 8x8 digits, enlarged to 16x16, in five experiences of two classes. No
download; about a minute on two cores.
"""

import argparse
import logging

import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.evaluation.metrics import accuracy_metrics, forgetting_metrics
from avalanche.models import SimpleMLP
from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
from avalanche.training.supervised import Naive
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from avalanche_plugin import CondensedReplayPlugin, replay_memory_metrics

SIDE = 16


class Digits(TensorDataset):
    """Avalanche reads the classes from ``targets``."""

    def __init__(self, images, labels):
        images = F.interpolate(torch.tensor(images).float()[:, None] / 16, size=SIDE)
        super().__init__(images, torch.tensor(labels))
        self.targets = labels.tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mem-size", type=int, default=200, help="in exemplars")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.captureWarnings(True)  # Avalanche undoes filters of its deprecations

    bunch = load_digits()
    train_x, test_x, train_y, test_y = train_test_split(
        bunch.images, bunch.target, test_size=0.25, random_state=0
    )
    benchmark = nc_benchmark(
        Digits(train_x, train_y),
        Digits(test_x, test_y),
        n_experiences=5,
        task_labels=False,
        seed=options.seed,
    )
    rows = {
        "no replay": [],
        "ReplayPlugin": [ReplayPlugin(mem_size=options.mem_size)],
        "CondensedReplayPlugin": [CondensedReplayPlugin(mem_size=options.mem_size)],
    }
    print(f"memory: {options.mem_size} images, {options.mem_size * SIDE**2:,} bytes")
    for name, plugins in rows.items():
        torch.manual_seed(options.seed)
        model = SimpleMLP(num_classes=10, input_size=SIDE**2)
        strategy = Naive(
            model=model,
            optimizer=torch.optim.Adam(model.parameters(), 1e-3),
            criterion=nn.CrossEntropyLoss(),
            train_mb_size=32,
            train_epochs=10,
            eval_mb_size=512,
            plugins=plugins,
            evaluator=EvaluationPlugin(
                accuracy_metrics(stream=True),
                forgetting_metrics(stream=True),
                replay_memory_metrics(experience=False),
            ),
        )
        for experience in benchmark.train_stream:
            strategy.train(experience)
            result = strategy.eval(benchmark.test_stream)
        found = {key.split("/")[0]: value for key, value in result.items()}
        print(
            f"{name:22} accuracy {100 * found['Top1_Acc_Stream']:5.1f} %   forgetting "
            f"{found['StreamForgetting']:.2f}   generators "
            f"{found['ReplayBytes_Stream']:,.0f} bytes"
        )


if __name__ == "__main__":
    main()
