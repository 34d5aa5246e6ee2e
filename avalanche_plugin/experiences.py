"""What the plugin and the buffer read from Avalanche's experiences.

Avalanche's streams differ: samples have two or three elements, with or without task
labels, and come in whole experiences or online slices of them. Nothing here changes the
global random state or applies the training transforms.
"""

import hashlib
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks.scenarios.online import OnlineCLExperience
from torch import Tensor
from torch.utils.data import DataLoader

from avalanche_plugin.checks import require_elements, require_image, require_samples
from avalanche_plugin.pixels import Key
from condense_core import DataError

_READ_BATCH = 256
_PROBES = 8  # images that tell an experience from others of as many images and classes
# Avalanche's plugins that train on stored samples, besides those with replay in their
# name. A storage policy is no sign of it: some plugins only compute means from theirs.
_REPLAYING = (
    "BiCPlugin",
    "CoPEPlugin",
    "GDumbPlugin",
    "GSS_greedyPlugin",
    "MIRPlugin",
    "RARPlugin",
)


class Boundaries:
    """Tells when an experience is complete, even if it comes in online slices.

    Attributes:
        slices: How many slices of the present experience have been seen.
    """

    def __init__(self) -> None:
        self.slices = 0

    def completed(self, experience: Any) -> Any | None:
        """The experience to condense, or None if an online one is not complete yet.

        Slices are counted, because the splitter marks none as the last if their size
        divides that of the experience.

        Raises:
            DataError: The stream is online and has no task boundaries, so that no
                experience is ever complete.
        """
        origin = self.origin(experience)
        if origin is experience:
            return experience
        self.slices = 1 if experience.is_first_subexp else self.slices + 1
        last = self.slices == experience.sub_stream_length
        if last or experience.is_last_subexp:
            return origin
        return None

    def origin(self, experience: Any) -> Any:
        """The experience that an online slice belongs to, or the experience itself.

        Raises:
            DataError: As `completed`.
        """
        if not isinstance(experience, OnlineCLExperience):
            return experience
        if not experience.access_task_boundaries:
            raise DataError(
                "an online stream without task boundaries cannot be condensed once per "
                "experience: split it with access_task_boundaries=True"
            )
        return experience.origin_experience


def image_shape(dataset: Any) -> tuple[int, int, int]:
    """(C, H, W) of a data set's first sample under the evaluation transforms.

    Raises:
        DataError: It is empty, or its samples are not labelled images.
    """
    require_samples(len(dataset))
    sample = dataset.eval()[0]
    require_elements(sample)
    shape = tuple(getattr(sample[0], "shape", ()))
    require_image(shape)
    return shape


def class_keys(dataset: Any) -> tuple[Key, ...]:
    """(label, task) of every class, read from the samples if the data set has no list.

    Raises:
        DataError: As `read_experience`.
    """
    targets = getattr(dataset, "targets", None)
    if targets is None:
        _, labels, tasks = read_experience(dataset)
        return tuple(dict.fromkeys(zip(labels.tolist(), tasks.tolist(), strict=True)))
    of_tasks = getattr(dataset, "targets_task_labels", None)
    if of_tasks is None or len(of_tasks.uniques) == 1:
        (task,) = (0,) if of_tasks is None else of_tasks.uniques
        return tuple((label, task) for label in sorted(targets.uniques))
    pairs = {(int(y), int(t)) for y, t in zip(targets, of_tasks, strict=True)}
    return tuple(sorted(pairs, key=lambda pair: pair[::-1]))


def fingerprint(dataset: Any, keys: tuple[Key, ...]) -> str:
    """A name for the data of an experience, to recognise it when it is trained again.

    It depends on the data only: positions in a stream are the same for experiences of
    two benchmarks, and objects are others after a restart. Random evaluation transforms
    change it.

    Args:
        dataset: Not empty, of images of one shape.
        keys: (label, task) of its classes.
    """
    found = hashlib.blake2b(repr((len(dataset), keys)).encode(), digest_size=16)
    samples = dataset.eval()
    for index in range(0, len(dataset), -(-len(dataset) // _PROBES)):
        pixels = torch.as_tensor(samples[index][0]).float().cpu().contiguous()
        found.update(pixels.numpy().tobytes())
    return found.hexdigest()


def read_experience(
    dataset: Any, *, num_workers: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """All samples under the evaluation transforms: images, labels, tasks.

    Args:
        dataset: An Avalanche data set whose samples are (x, y) or (x, y, task).
        num_workers: Processes that read; 0 is this one. The result is the same.

    Returns:
        Floats (N, C, H, W) as the model sees them at test time; int64 (N,); int64 (N,),
        0 for samples without a task.

    Raises:
        DataError: Samples have no label, more elements than these, or are of different
            shapes.
    """
    loader = DataLoader(
        dataset.eval(),
        batch_size=_READ_BATCH,
        num_workers=num_workers,
        # Without one, a loader draws its seed from the global generator.
        generator=torch.Generator().manual_seed(0),
    )
    columns: list[list[Tensor]] = [[], [], []]
    try:
        for batch in loader:
            require_elements(batch)
            images, labels = batch[0], torch.as_tensor(batch[1])
            tasks = batch[2] if len(batch) > 2 else torch.zeros_like(labels)
            for column, values in zip(columns, (images, labels, tasks), strict=True):
                column.append(values)
    except (RuntimeError, TypeError) as error:
        line = " ".join(str(error).split())
        raise DataError(
            f"the samples of an experience cannot be read as images ({line:.160}): end "
            "the evaluation transforms with ToTensor and resize all to one size"
        ) from error
    require_samples(len(columns[0]))
    images, labels, tasks = (torch.cat(column) for column in columns)
    return images, labels, torch.as_tensor(tasks)


@contextmanager
def isolated_randomness() -> Iterator[None]:
    """Restore every global random state (torch, numpy, random) on exit."""
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    # Asking for the state of a device that was never used would initialise it.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002


def warn_of_other_replay(plugins: list[Any], this: Any) -> None:
    """Warn once if another plugin replays too."""
    for plugin in plugins:
        if plugin is not this and _replays(plugin):
            warnings.warn(
                f"{type(plugin).__name__} and {type(this).__name__} both replay: the "
                "model would be trained on the samples of both; remove one of them",
                stacklevel=3,
            )
            return


def _replays(plugin: Any) -> bool:
    """Whether a plugin is known, by its name or that of a base, to replay."""
    names = [base.__name__ for base in type(plugin).__mro__]
    return any(name in _REPLAYING or "replay" in name.lower() for name in names)
