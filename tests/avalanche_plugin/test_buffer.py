import dill
import pytest
import torch
from avalanche.benchmarks import split_online_stream
from avalanche.models import MTSimpleMLP
from avalanche.training.plugins import ReplayPlugin
from avalanche.training.supervised import ER_ACE, GDumb
from torch import nn

from avalanche_plugin import CondensedBuffer
from condense_core.errors import ConfigError
from tests.avalanche_plugin.streams import (
    STREAMS,
    NoiseMemory,
    Recorder,
    image_stream,
    mlp,
    nc_stream,
    silent,
    strategy,
)


@pytest.mark.parametrize("kind", STREAMS)
def test_replay_plugin_takes_it(kind, pairs, instant):
    buffer = CondensedBuffer(200, samples=40, preset=instant)
    recorder = Recorder()
    plugin = ReplayPlugin(mem_size=200, storage_policy=buffer)
    run = strategy([plugin, recorder])
    for number, experience in enumerate(STREAMS[kind](pairs)[:3]):
        recorder.batches.clear()
        run.train(experience)
        assert buffer.nbytes <= 200 * 256
        assert len(buffer.buffer) == 40
        assert set(buffer.buffer.targets) == set(range(2 * number + 2))
        if number:
            batch = recorder.batches[0]
            assert len(batch[0]) == 64
            assert set(batch[1].tolist()) <= set(range(2 * number + 2))


@pytest.mark.parametrize("task_labels", [False, True])
def test_a_loader_that_balances_tasks_takes_it(pairs, instant, task_labels):
    buffer = CondensedBuffer(200, samples=40, preset=instant)
    plugin = ReplayPlugin(
        mem_size=200, storage_policy=buffer, task_balanced_dataloader=True
    )
    recorder = Recorder()
    model = MTSimpleMLP(input_size=256) if task_labels else None
    run = strategy([plugin, recorder], model)
    for experience in nc_stream(pairs, task_labels=task_labels)[:3]:
        recorder.batches.clear()
        run.train(experience)
    tasks = set(torch.cat([batch[-1] for batch in recorder.batches]).tolist())
    assert tasks == ({0, 1, 2} if task_labels else {0})


@pytest.mark.parametrize("kind", ["er_ace", "gdumb"])
def test_other_strategies_take_it(kind, pairs, instant):
    model = mlp()
    options = {
        "model": model,
        "optimizer": torch.optim.Adam(model.parameters(), 1e-3),
        "criterion": nn.CrossEntropyLoss(),
        "train_mb_size": 32,
        "train_epochs": 1,
        "evaluator": silent(),
        "mem_size": 200,
    }
    buffer = CondensedBuffer(200, samples=40, preset=instant)
    if kind == "er_ace":
        run = ER_ACE(**options, batch_size_mem=16)
        run.storage_policy = buffer
    else:
        run = GDumb(**options)
        run.plugins[0].storage_policy = buffer
    for experience in nc_stream(pairs)[:3]:
        run.train(experience)
    assert buffer.memory.observed == 3


def test_no_training_transform_runs_and_no_global_state_moves(
    digits, instant, untouched_global_rng
):
    def forbidden(*_):
        raise AssertionError("a training transform ran")

    buffer = CondensedBuffer(200, samples=20, preset=instant)
    experience = image_stream(digits)[0]
    transforms = (forbidden, None)
    experience.dataset = experience.dataset.replace_current_transform_group(transforms)
    buffer.post_adapt(None, experience)
    assert len(buffer.buffer) == 20


def test_an_online_stream_is_condensed_once_per_boundary(pairs, instant):
    buffer = CondensedBuffer(200, samples=20, preset=instant)
    run = strategy([ReplayPlugin(mem_size=200, storage_policy=buffer)])
    online = split_online_stream(
        nc_stream(pairs)[:1], experience_size=40, access_task_boundaries=True
    )
    counts = []
    for part in online:
        run.train(part)
        counts.append(buffer.memory.observed)
    assert counts == [0, 0, 1]


def test_an_experience_that_comes_again_has_one_generator(pairs, instant):
    buffer = CondensedBuffer(200, samples=20, preset=instant)
    run = strategy([ReplayPlugin(mem_size=200, storage_policy=buffer)])
    stream = nc_stream(pairs)
    for number in (0, 0, 1, 0):
        run.train(stream[number])
    assert len(buffer.memory.slots) == 2


def test_a_pickle_holds_generators_and_draws_the_same_images_again(pairs, instant):
    buffer = CondensedBuffer(200, samples=40, preset=instant)
    run = strategy([ReplayPlugin(mem_size=200, storage_policy=buffer)])
    run.train(nc_stream(pairs)[0])
    data = dill.dumps(buffer)
    assert len(data) < 1.2 * buffer.nbytes + 8000  # configuration and an empty set
    again = dill.loads(data)
    for ours, theirs in zip(buffer.buffer, again.buffer, strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert ours[1:] == theirs[1:]


@pytest.fixture
def of_noise(pairs):
    """Makes a buffer that draws noise, after the first experience of five."""

    def make(**options):
        buffer = CondensedBuffer(200, samples=4, **options)
        buffer.memory = NoiseMemory()
        buffer.post_adapt(None, nc_stream(pairs)[0])
        return buffer

    return make


def exemplars(buffer):
    return torch.stack([image for image, *_ in buffer.buffer])


def test_the_memory_has_the_policy_and_the_seed_of_the_buffer():
    memory = CondensedBuffer(200, policy="shared", seed=3).memory
    assert (memory.policy, memory.seed) == ("shared", 3)


def test_the_memory_is_told_the_length_of_the_stream(of_noise):
    assert of_noise().memory.expected == 5


def test_exemplars_are_dispersed(of_noise):
    """A network trained on them alone sees no real image of the class."""
    assert of_noise().memory.dispersed


def test_the_seed_decides_which_exemplars_are_drawn(of_noise):
    assert torch.equal(exemplars(of_noise(seed=1)), exemplars(of_noise(seed=1)))
    assert not torch.equal(exemplars(of_noise(seed=1)), exemplars(of_noise(seed=2)))


def test_exemplars_are_others_after_every_experience(of_noise, pairs):
    buffer = of_noise()
    before = exemplars(buffer)
    buffer.post_adapt(None, nc_stream(pairs)[1])
    assert not torch.equal(exemplars(buffer), before)


def test_bad_use_is_refused():
    with pytest.raises(ConfigError, match="positive whole number"):
        CondensedBuffer(0)
    with pytest.raises(ConfigError, match="positive whole number"):
        CondensedBuffer(200, samples=0)
    with pytest.raises(ConfigError, match="policy"):
        CondensedBuffer(200, policy="none")
    with pytest.raises(ConfigError, match="unknown preset"):
        CondensedBuffer(200, preset="replai")
    with pytest.raises(ConfigError, match="final size"):
        CondensedBuffer(200).resize(None, 100)
