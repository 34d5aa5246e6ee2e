"""Going on from a finished artefact, without a teacher.

A federated client has the generator of the last round and a network that was trained on
everybody's; it need not begin anew. A decoder of the whole data set (``variational``)
goes on as one, then come the updates of Algorithm 1, if any.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from condense_core.artefact import CondensedDataset
from condense_core.compute.devices import resolve_device
from condense_core.compute.mode import compute_scope
from condense_core.config import CondenseConfig
from condense_core.data import ImageData, as_image_data
from condense_core.data.class_sampler import ClassSampler
from condense_core.engine import condense_loop
from condense_core.errors import ConfigError, DataError
from condense_core.loop_state import LoopState
from condense_core.probe import Probe
from condense_core.runlog import RunLog
from condense_core.runs.preparation import build_phi
from condense_core.runs.run import memory_advice
from condense_core.synthesiser import GeneratorSynthesiser
from condense_core.teacher import frozen
from condense_core.variational import train_variationally


def refine(
    condensed: CondensedDataset,
    train_set: Any,
    config: CondenseConfig,
    *,
    network: Mapping[str, Tensor] | None = None,
    device: str | torch.device = "auto",
    progress: bool = True,
) -> CondensedDataset:
    """Train on from a condensed set instead of from the beginning.

    Args:
        condensed: Where codes, generator and class embeddings start; left unchanged.
        train_set: As for `condense`, of the same classes and image shape.
        config: ``loop``, ``loss``, ``optimiser``, ``network`` and ``augment`` count,
            and ``pretrain`` if its method is ``variational``; sizes and precision are
            those of ``condensed``.
        network: Weights that phi starts with at every restart; random ones if None.
        device: auto, cpu, cuda or cuda:N.
        progress: Whether to show progress on stderr.

    Returns:
        A new condensed set of the same sizes and precision, with the provenance of the
        old one.

    Raises:
        DataError: The images have another shape, other classes, or a class has none.
        ConfigError: Soft labels are asked for, which need a teacher, or ``network``
            does not fit ``config.network``.
        RunError: The device is absent, memory runs out, or the loss is no longer
            finite.
    """
    data = as_image_data(train_set)
    if data.image_shape != condensed.image_shape or data.classes != condensed.classes:
        raise DataError(
            f"images of shape {data.image_shape} and classes {data.classes!r:.60} do "
            f"not fit the condensed set's {condensed.image_shape} and "
            f"{condensed.classes!r:.60}: give the set it was condensed from"
        )
    if config.loss.soft_labels:
        raise ConfigError(
            "loss.soft_labels needs a teacher, which refining does not train: use "
            "loss.soft_labels=false"
        )
    if network is not None:
        _check_network(network, config, data)
    device = resolve_device(device)
    with memory_advice():
        return _refine(condensed, data, config, network, device, progress)


def _check_network(
    weights: Mapping[str, Tensor], config: CondenseConfig, data: ImageData
) -> None:
    try:
        build_phi(config, data).load_state_dict(weights)
    except RuntimeError as error:
        raise ConfigError(
            "the given network does not fit network.name, width and depth of the "
            "configuration: use those it was built with"
        ) from error


def _refine(
    condensed: CondensedDataset,
    data: ImageData,
    config: CondenseConfig,
    network: Mapping[str, Tensor] | None,
    device: torch.device,
    progress: bool,
) -> CondensedDataset:
    sampler, statistics = ClassSampler(data, device), condensed.statistics
    synthesiser = condensed.synthesiser(device)
    begin = partial(
        LoopState,
        config,
        synthesiser,
        statistics,
        device=device,
        network_start=network,
    )
    state = begin()
    decoder = config.pretrain.method == "variational"
    if decoder and isinstance(synthesiser, GeneratorSynthesiser):
        _decode_on(synthesiser, sampler, state, progress)
        state = begin()  # its optimiser may hold the images it starts from
    with (
        compute_scope(config.compute, device),
        _log("refine", config.loop.total, progress) as log,
    ):
        condense_loop(
            state,
            sampler=sampler,
            teacher=None,
            log=log,
            save=lambda _: None,
            probe=Probe(synthesiser, data, statistics, config),
        )
    kept = {k: v for k, v in condensed.metadata.items() if k in ("data", "versions")}
    return CondensedDataset.from_synthesiser(
        synthesiser,
        classes=condensed.classes,
        statistics=statistics,
        precision=condensed.precision,
        max_batch=config.max_synthetic_batch,
        config=config.to_dict(),
        **kept,
    )


def _decode_on(
    synthesiser: GeneratorSynthesiser,
    sampler: ClassSampler,
    state: LoopState,
    progress: bool,
) -> None:
    config = state.config.pretrain
    with _log("decode", config.steps, progress) as log:
        train_variationally(
            synthesiser,
            sampler,
            config,
            seed=state.config.seed,
            log=log,
            statistics=state.statistics,
            network=frozen(state.network),
            warm_start=True,
        )


def _log(description: str, total: int, progress: bool) -> RunLog:
    return RunLog(None, total=total, description=description, progress=progress)
