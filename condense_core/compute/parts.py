"""Which rows of a batch a process computes, where several share it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """The rows ``start`` to ``stop`` of a batch of ``whole`` rows."""

    start: int
    stop: int
    whole: int

    @property
    def rows(self) -> slice:
        """Index of the rows."""
        return slice(self.start, self.stop)

    @property
    def share(self) -> float:
        """Share of the whole; the shares of all processes sum to one."""
        return (self.stop - self.start) / self.whole

    def times(self, each: int) -> "Part":
        """The same part where every row stands for ``each`` consecutive ones."""
        return Part(self.start * each, self.stop * each, self.whole * each)
