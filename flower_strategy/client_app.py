"""The client app: condenses, evaluates or gives its name on request.

`app` reads the images that node and run configuration name, `build_client_app` makes
the same app over any others.

Only its replies leave the client. A failure is answered with one line that contains no
path and no data.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial, wraps
from logging import WARNING
from typing import cast

from flwr.app import (
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.common.logger import log
from torch import Tensor

from condense_core import (
    CondensedDataset,
    CondenseError,
    ConfigError,
    DataError,
    ImageData,
    PixelStatistics,
)
from condense_core.compute.devices import resolve_device
from condense_core.training import accuracy
from flower_strategy.condensing import condense_locally, condense_with_privacy
from flower_strategy.global_model import initial_model
from flower_strategy.local_data import LocalData, client_name, load_local
from flower_strategy.payload import (
    ARRAYS,
    CONFIG,
    GENERATOR,
    GLOBAL,
    METRICS,
    SPEC,
    Contribution,
    encode,
    pack_generator,
    unpack_generator,
)
from flower_strategy.settings import ClientSettings, DataSettings, ModelSettings
from flower_strategy.site import SiteSettings

CLIENT_FAILED = 101  # error code of a client that could not condense
RELEASE = "release-"  # prefix of the records that a private client has answered with
FAILURE = "failure"  # one of them: it could not condense

Handler = Callable[[Message, Context], Message]
Mod = Callable[[Message, Context, Handler], Message]
Images = tuple[ImageData, ImageData | None]  # to learn from, and held out
Load = Callable[[Context], Images]


def answers_errors(handler: Handler) -> Handler:
    """Turn an exception into a short error reply, safe for the server to read."""

    @wraps(handler)
    def handle(message: Message, context: Context) -> Message:
        try:
            ModelSettings.read(context.run_config).prepare_process()
            return handler(message, context)
        except Exception as error:
            return _refusal(message, _reason(error))

    return handle


def build_client_app(load: Load, *, mods: Sequence[Mod] = ()) -> ClientApp:
    """A client app over the images that a function returns.

    All else is as in `app`: later rounds, the private mode, a site's own limits. A node
    has a name in its configuration, ``client-name`` or ``partition-id``.

    Args:
        load: Called with Flower's context whenever images are needed. Returns those to
            learn from, and those the global model is tested on or None. Both are
            labelled among all classes of the federation, and have its image shape.
        mods: Flower's, around every message.
    """
    built = ClientApp(mods=list(mods))
    built.train("condense")(answers_errors(partial(condense, load=load)))
    built.evaluate()(answers_errors(partial(evaluate, load=load)))
    built.query("identify")(answers_errors(identify))
    return built


def condense(message: Message, context: Context, load: Load) -> Message:
    """Condense the local images and reply with a contribution.

    Raises:
        ConfigError: The site demands more of a run, see `SiteSettings`.
    """
    started = time.monotonic()
    settings = _settings(context)
    model = ModelSettings.read(context.run_config)
    if settings.dp_epsilon > 0:
        return _condense_once(message, context, load, settings, model)
    local = _local(context, load)
    contribution = _condense_openly(message, context, local, settings, model)
    seconds = time.monotonic() - started
    return Message(encode(replace(contribution, seconds=seconds)), reply_to=message)


def evaluate(message: Message, context: Context, load: Load) -> Message:
    """Test the global model on the client's held-out images.

    Raises:
        ConfigError: The private mode is on, and does not cover these images, or as for
            `condense`.
    """
    epsilon = _settings(context).dp_epsilon
    if epsilon > 0:
        raise ConfigError(
            f"dp-epsilon is {epsilon:g} and does not cover held-out images: set "
            "evaluate-clients=false"
        )
    local, model = _local(context, load), ModelSettings.read(context.run_config)
    metrics = MetricRecord({"num-examples": 0, "accuracy": 0.0})
    if local.test is not None:
        device = resolve_device(model.device)
        network = initial_model(model, local.test.image_shape, local.test.num_classes)
        weights = message.content.array_records[GLOBAL].to_torch_state_dict()
        network.load_state_dict(weights)
        config = message.content.config_records[CONFIG]
        mean, std = (tuple(cast(list[float], config[name])) for name in ("mean", "std"))
        statistics = PixelStatistics(mean, std)
        test = local.test.to(device)
        metrics["num-examples"] = len(test)
        metrics["accuracy"] = accuracy(
            network.to(device), test.images, test.labels, statistics
        )
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def identify(message: Message, context: Context) -> Message:
    """Give the client's name, so that a restarted server can recognise it."""
    name = ConfigRecord({"client": client_name(context.node_config)})
    return Message(RecordDict({"identity": name}), reply_to=message)


def _condense_openly(
    message: Message,
    context: Context,
    local: LocalData,
    settings: ClientSettings,
    model: ModelSettings,
) -> Contribution:
    content = message.content
    contribution = condense_locally(
        local.client,
        local.train,
        settings,
        model,
        server_round=cast(int, content.config_records[CONFIG]["server-round"]),
        previous=_previous(message, context),
        global_model=_global_model(message),
    )
    context.state[GENERATOR] = pack_generator(contribution.condensed)
    return contribution


def _condense_once(
    message: Message,
    context: Context,
    load: Load,
    settings: ClientSettings,
    model: ModelSettings,
) -> Message:
    """The one answer of the private mode in a run: its budget allows one release.

    Releasing again with new noise would reveal more about the same images. A failure
    is an answer too: that no class is left, for example, tells what was drawn.
    """
    state = context.state
    if not any(name.startswith(RELEASE) for name in state):
        local = _local(context, load)
        try:
            # Without seconds: they depend on the number of images, and have no noise.
            answer = encode(
                condense_with_privacy(local.client, local.train, settings, model)
            )
        except Exception as error:
            answer = RecordDict({FAILURE: ConfigRecord({"reason": _reason(error)})})
        for name, record in answer.items():
            state[RELEASE + name] = record
    if RELEASE + FAILURE in state:
        reason = state.config_records[RELEASE + FAILURE]["reason"]
        return _refusal(message, cast(str, reason))
    sent = {name: state[RELEASE + name] for name in (ARRAYS, SPEC, METRICS)}
    return Message(RecordDict(sent), reply_to=message)


def _reason(error: Exception) -> str:
    """A failure in one line, safe for the server to read."""
    if isinstance(error, CondenseError):
        return f"{type(error).__name__}: {error}"
    reason = f"internal error: {type(error).__name__}"
    log(WARNING, "%s", reason, exc_info=error)
    return reason


def _refusal(message: Message, reason: str) -> Message:
    return Message(Error(CLIENT_FAILED, reason), reply_to=message)


def _settings(context: Context) -> ClientSettings:
    """The settings of the run, if the site agrees to them."""
    settings = ClientSettings.read(context.run_config)
    SiteSettings.read(context.node_config).check(settings)
    return settings


def load_configured(context: Context) -> Images:
    """The images that node and run configuration name."""
    local = load_local(context.node_config, DataSettings.read(context.run_config))
    return local.train, local.test


def _local(context: Context, load: Load) -> LocalData:
    client = client_name(context.node_config)
    try:
        train, test = load(context)
    except DataError as error:  # names files and folders, which stay here
        log(WARNING, "%s", error)
        raise DataError("the client cannot read its images: see its log") from error
    return LocalData(client=client, train=train, test=test)


def _global_model(message: Message) -> dict[str, Tensor] | None:
    record = message.content.array_records.get(GLOBAL)
    return dict(record.to_torch_state_dict()) if record else None


def _previous(message: Message, context: Context) -> CondensedDataset | None:
    """The last generator: the client's own, or what a restarted server returns."""
    for records in (context.state.array_records, message.content.array_records):
        if GENERATOR in records:
            return unpack_generator(records[GENERATOR])
    return None


app = build_client_app(load_configured)
