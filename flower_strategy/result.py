"""What a run returns."""

from dataclasses import dataclass, field

from flwr.app import MetricRecord
from flwr.serverapp.strategy import Result

from flower_strategy.rounds import RoundReport, RunState


@dataclass(repr=False)
class CondensationResult(Result):
    """Flower's result, and what condensation adds to it.

    Attributes:
        state: Reports of all rounds, every client's newest contribution, the global
            model.
        dropped: (client, class) pairs that the robust check left out last.
    """

    state: RunState = field(default_factory=RunState)
    dropped: frozenset[tuple[str, int]] = frozenset()


def metrics_of(report: RoundReport) -> MetricRecord:
    """A round's report as Flower keeps it."""
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
