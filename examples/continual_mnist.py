"""Split-MNIST with Avalanche: what changes in a script that uses exemplars.

    -from avalanche.training.plugins import ReplayPlugin
    +from avalanche_plugin import CondensedReplayPlugin
    ...
    -    plugins=[ReplayPlugin(mem_size=200)],
    +    plugins=[CondensedReplayPlugin(mem_size=200)],

    python examples/continual_mnist.py --data-root DATA
    python examples/continual_mnist.py --data-root DATA --exemplars   # as before

DATA is the folder of torchvision's MNIST files. Both store at most 200 x 28 x 28 bytes.
"""

import argparse

import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.evaluation.metrics import accuracy_metrics, forgetting_metrics
from avalanche.logging import InteractiveLogger
from avalanche.models import SimpleMLP
from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
from avalanche.training.supervised import Naive
from torch import nn
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

from avalanche_plugin import CondensedReplayPlugin, replay_memory_metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--exemplars", action="store_true", help="Avalanche's replay")
    parser.add_argument("--mem-size", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    benchmark = nc_benchmark(
        MNIST(options.data_root, train=True),
        MNIST(options.data_root, train=False),
        n_experiences=5,
        task_labels=False,
        seed=options.seed,
        train_transform=ToTensor(),
        eval_transform=ToTensor(),
    )
    replay = ReplayPlugin if options.exemplars else CondensedReplayPlugin
    model = SimpleMLP(num_classes=10, input_size=784, hidden_size=400, hidden_layers=2)
    strategy = Naive(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), 1e-3),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=128,
        train_epochs=2,
        eval_mb_size=512,
        plugins=[replay(mem_size=options.mem_size)],
        evaluator=EvaluationPlugin(
            accuracy_metrics(stream=True),
            forgetting_metrics(stream=True),
            replay_memory_metrics(),
            loggers=[InteractiveLogger()],
        ),
    )
    for experience in benchmark.train_stream:
        strategy.train(experience)
        strategy.eval(benchmark.test_stream)


if __name__ == "__main__":
    main()
