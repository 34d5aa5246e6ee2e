"""What a site demands of a run before it takes part.

The run configuration comes from whoever starts a run. These settings stay in the node
configuration, which only the site can change; a run that is weaker is refused before an
image is read.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from condense_core import ConfigError
from flower_strategy.settings import ClientSettings, Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteSettings(Settings):
    """Keys of ``--node-config``, all optional.

    Raises:
        ConfigError: As for `Settings`, or a limit is not above 0.
    """

    SOURCE: ClassVar[str] = "node config"

    max_dp_epsilon: float = math.inf
    """Largest ``dp-epsilon``; with a limit a run must be in the private mode."""
    max_dp_delta: float = 1e-5
    """Largest ``dp-delta`` then: without a limit a small epsilon would mean nothing."""
    min_class_count: int = 1
    """Smallest ``min-class-count``."""

    def __post_init__(self) -> None:
        """Check ranges."""
        self.require(min_class_count=1)
        for name in ("max_dp_epsilon", "max_dp_delta"):
            if not getattr(self, name) > 0:
                raise ConfigError(
                    f"node config {name.replace('_', '-')} is {getattr(self, name)}: "
                    "choose a value above 0"
                )

    def check(self, run: ClientSettings) -> None:
        """Refuse a run that protects the site's images less than the site demands.

        Raises:
            ConfigError: Says what the site demands and what the run has.
        """
        private = 0 < run.dp_epsilon <= self.max_dp_epsilon
        if self.max_dp_epsilon < math.inf and not (
            private and run.dp_delta <= self.max_dp_delta
        ):
            raise ConfigError(
                "this site takes part only with dp-epsilon above 0 and at most "
                f"{self.max_dp_epsilon:g} and dp-delta at most {self.max_dp_delta:g}, "
                f"the run has {run.dp_epsilon:g} and {run.dp_delta:g}"
            )
        if run.min_class_count < self.min_class_count:
            raise ConfigError(
                "this site takes part only with min-class-count at least "
                f"{self.min_class_count}, the run has {run.min_class_count}"
            )
