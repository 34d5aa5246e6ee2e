"""What a run writes down while it condenses; nothing of it steers the loop.

Shape legend: Y classes, K codes, C H W image.
"""

from collections.abc import Callable

from torch import Tensor

from condense_core.compute.distributed import Ranks
from condense_core.config import CondenseConfig
from condense_core.objectives.feature import Terms, gradient_norms
from condense_core.runlog import RunLog

LOG_EVERY = 20  # generator updates between lines of metrics.jsonl


class Monitor:
    """Terms of the loss, their gradients' norms and probes, every so many updates.

    Args:
        config: Of the run.
        log: Metrics and progress.
        probe: Called with the step, returns an accuracy in percent.
        ranks: Processes that share the terms.
    """

    def __init__(
        self,
        config: CondenseConfig,
        log: RunLog,
        probe: Callable[[int], float],
        ranks: Ranks,
    ) -> None:
        self._config, self._log, self._probe = config, log, probe
        self._ranks = ranks
        self._norms: Terms = {}

    def before_update(self, step: int, terms: Terms, images_YKCHW: Tensor) -> None:
        """Take the norm of each term's gradient while there is a graph.

        Args:
            step: Generator update.
            terms: Unweighted, of this process.
            images_YKCHW: Normalised synthetic images that they were computed from.
        """
        if self._logs(step):
            self._norms = gradient_norms(
                terms, images_YKCHW, self._config.loss, self._ranks
            )

    def after_update(self, step: int, terms: Terms, total: Tensor) -> None:
        """Write what is due; ``total`` is L_con, shown with the progress."""
        if self._logs(step):
            sums = self._ranks.totals(terms)
            scalars = {f"loss/{name}": term for name, term in sums.items()}
            scalars |= {f"grad_norm/{name}": norm for name, norm in self._norms.items()}
            self._log.log(step, **scalars)
        every = self._config.evaluate.probe_every
        if every and ((step + 1) % every == 0 or step == 0):
            self._log.log(step, probe_accuracy=self._probe(step))
        self._log.advance(step + 1, loss=self._ranks.sum(total.detach()))

    def _logs(self, step: int) -> bool:
        return step % LOG_EVERY == 0 or step + 1 == self._config.loop.total
