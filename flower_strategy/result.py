"""What a run returns."""

from dataclasses import dataclass, field

from flwr.app import MetricRecord
from flwr.serverapp.strategy import Result

from flower_strategy.aggregation import Dropped
from flower_strategy.rounds import RoundReport, RunState


@dataclass(repr=False)
class CondensationResult(Result):
    """Flower's result, with what condensation adds to it.

    Attributes:
        state: Reports of all rounds, every client's newest contribution, the global
            model.
        dropped: (client, class) pairs that the last robust check left out.
    """

    state: RunState = field(default_factory=RunState)
    dropped: Dropped = frozenset()

    def evaluated(self, server_round: int, found: MetricRecord | None) -> None:
        """Add what the caller's own evaluation returned, if anything."""
        if found:
            self.evaluate_metrics_serverapp[server_round] = found

    def finish(self, state: RunState, dropped: Dropped) -> None:
        """Add the final state, and the report of every round as metrics."""
        for report in state.reports:
            number = report.server_round
            self.train_metrics_clientapp[number] = metrics_of(report)
            if report.accuracy is not None:
                own = MetricRecord({"accuracy": report.accuracy})
                self.evaluate_metrics_serverapp.setdefault(number, own)
            if report.client_accuracy is not None:
                self.evaluate_metrics_clientapp[number] = MetricRecord(
                    {
                        "accuracy": report.client_accuracy,
                        "num-examples": report.client_images,
                    }
                )
        self.arrays, self.state, self.dropped = state.arrays, state, dropped


def metrics_of(report: RoundReport) -> MetricRecord:
    """The report of a round as Flower keeps it."""
    return MetricRecord(
        {
            "clients": len(report.accepted),
            "rejected": len(report.rejected),
            "missing": report.missing,
            "bytes-up": report.bytes_up,
            "bytes-down": report.bytes_down,
            "seconds": report.seconds,
            "synthetic-images": report.synthetic_images,
        }
    )
