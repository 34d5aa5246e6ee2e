"""Replay memory in bytes, as a metric for Avalanche's loggers."""

from typing import Any

from avalanche.evaluation.metric_definitions import GenericPluginMetric, Metric
from avalanche.evaluation.metric_results import MetricValue
from avalanche.evaluation.metric_utils import get_metric_name


class ReplayBytes(Metric[float]):
    """Bytes that a strategy and its plugins store for replay: the sum of ``nbytes``.

    For each of them its own ``nbytes``, else that of its ``storage_policy``.
    Avalanche's exemplar buffers have no ``nbytes`` and count as 0.
    """

    def __init__(self) -> None:
        self._total = 0.0

    def update(self, strategy: Any) -> None:
        """Add up the bytes of the strategy and its plugins."""
        self._total = float(sum(map(_stored, [strategy, *strategy.plugins])))

    def result(self) -> float:
        """The sum at the last update."""
        return self._total

    def reset(self) -> None:
        """Set the sum to zero."""
        self._total = 0.0


def _stored(holder: Any) -> int:
    policy = getattr(holder, "storage_policy", None)
    nbytes: int = getattr(holder, "nbytes", getattr(policy, "nbytes", 0))
    return nbytes


class _ReplayBytesPlugin(GenericPluginMetric[float, ReplayBytes]):
    def __init__(self, *, emit_at: str, mode: str) -> None:
        super().__init__(
            ReplayBytes(),
            reset_at="never",
            emit_at=emit_at,
            mode=mode,
        )

    def after_training_exp(self, strategy: Any) -> Any:
        """Runs after the replay plugins, which come before the evaluator."""
        self._metric.update(strategy)
        return super().after_training_exp(strategy)

    def before_eval(self, strategy: Any) -> Any:
        """The memory does not change during an evaluation."""
        self._metric.update(strategy)
        return super().before_eval(strategy)

    def _package_result(self, strategy: Any) -> list[MetricValue]:
        """Under a name without a task: one memory serves all tasks.

        With the task of the last experience in it, as the base has it, values of
        earlier evaluations would stay in the results beside the present one.
        """
        name = get_metric_name(
            self,
            strategy,
            add_experience=self._emit_at == "experience",
            add_task=False,
        )
        step = strategy.clock.train_iterations
        return [MetricValue(self, name, self._metric.result(), step)]


class ExperienceReplayBytes(_ReplayBytesPlugin):
    """Emitted at the end of training on an experience."""

    def __init__(self) -> None:
        super().__init__(emit_at="experience", mode="train")

    def __str__(self) -> str:
        return "ReplayBytes_Exp"


class StreamReplayBytes(_ReplayBytesPlugin):
    """Emitted at the end of the evaluation of a stream."""

    def __init__(self) -> None:
        super().__init__(emit_at="stream", mode="eval")

    def __str__(self) -> str:
        return "ReplayBytes_Stream"


def replay_memory_metrics(
    *, experience: bool = True, stream: bool = True
) -> list[_ReplayBytesPlugin]:
    """Metrics for an ``EvaluationPlugin``.

    :param experience: after training on each experience.
    :param stream: after each evaluation of a stream, in the result of ``eval``.
    """
    metrics: list[_ReplayBytesPlugin] = []
    if experience:
        metrics.append(ExperienceReplayBytes())
    if stream:
        metrics.append(StreamReplayBytes())
    return metrics
