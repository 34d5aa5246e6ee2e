"""What an experience tells about the stream that it is from."""

from typing import Any


def whole_stream(experience: Any) -> Any | None:
    """The stream of a (whole) experience, even if it was taken from a slice of it.

    A slice of a benchmark's stream is the stream of the experiences taken from it. The
    benchmark, if the stream has one, knows the whole.
    """
    stream = getattr(experience, "_origin_stream", None)
    streams = getattr(getattr(stream, "benchmark", None), "streams", {})
    return streams.get(getattr(stream, "name", None), stream)


def expected_experiences(experience: Any) -> int | None:
    """Length of the whole stream of a (whole) experience, if it has one."""
    try:
        return len(whole_stream(experience))  # type: ignore[arg-type]
    except TypeError:  # no stream, or one that is generated as it goes
        return None
