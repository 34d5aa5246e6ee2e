"""What a run writes down while it condenses; nothing of it steers the loop.

Shape legend: Y classes, K codes, C H W image.
"""

from collections.abc import Callable

from torch import Tensor

from condense_core.compute.distributed import Ranks
from condense_core.config import CondenseConfig
from condense_core.errors import RunError
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
        """Write what is due; ``total`` is L_con, shown with the progress.

        Raises:
            RunError: L_con is not finite where it is logged; looking at it at every
                step would wait for the device.
        """
        loss = self._ranks.sum(total.detach())
        if self._logs(step):
            sums = self._ranks.totals(terms)
            scalars = {f"loss/{name}": term for name, term in sums.items()}
            scalars |= {f"grad_norm/{name}": norm for name, norm in self._norms.items()}
            self._log.log(step, **scalars)
            _require_finite(step, loss, sums)
        every = self._config.evaluate.probe_every
        if every and ((step + 1) % every == 0 or step == 0):
            self._log.log(step, probe_accuracy=self._probe(step))
        self._log.advance(step + 1, loss=loss)

    def _logs(self, step: int) -> bool:
        return step % LOG_EVERY == 0 or step + 1 == self._config.loop.total


def _require_finite(step: int, loss: Tensor, terms: Terms) -> None:
    if loss.isfinite():
        return
    name = next((n for n, term in terms.items() if not term.isfinite()), "the sum")
    raise RunError(
        f"the run diverged: at step {step} the loss is {loss.item()}, by term {name}: "
        "lower the learning rates (optimiser.*_lr) or the weight of that term"
    )
