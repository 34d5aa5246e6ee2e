"""What an experience tells about the stream that it is from."""

from typing import Any

from avalanche.benchmarks.scenarios.generic_scenario import EagerCLStream


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


def expected_classes(experience: Any) -> tuple[int, ...] | None:
    """Number of classes in each experience of the whole stream of a (whole) experience.

    Only what is known without reading samples: None for streams that are loaded or
    generated as they go, and for data sets without a list of targets.
    """
    stream = whole_stream(experience)
    classes: list[Any]
    if isinstance(stream, EagerCLStream):
        targets = [getattr(each.dataset, "targets", None) for each in stream]
        classes = [None if of_one is None else of_one.uniques for of_one in targets]
    else:
        benchmark = getattr(stream, "benchmark", None)
        by_stream = getattr(benchmark, "classes_in_experience", {})
        by_number = by_stream.get(getattr(stream, "name", None), ())
        classes = [by_number[number] for number in range(len(by_number))]
    if not classes or any(of_one is None for of_one in classes):
        return None
    return tuple(len({int(label) for label in of_one}) for of_one in classes)
