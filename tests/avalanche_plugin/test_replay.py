"""The plugin inside real Avalanche strategies, on every kind of stream."""

import copy
import subprocess
import sys
import warnings
from types import SimpleNamespace

import dill
import numpy as np
import pytest
import torch
from avalanche.benchmarks import (
    benchmark_from_datasets,
    nc_benchmark,
    split_online_stream,
)
from avalanche.benchmarks.utils import (
    AvalancheDataset,
    DataAttribute,
    as_classification_dataset,
)
from avalanche.checkpointing import maybe_load_checkpoint, save_checkpoint
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.logging import TextLogger
from avalanche.models import IncrementalClassifier, MTSimpleMLP, MultiHeadClassifier
from avalanche.models.dynamic_modules import MultiTaskModule
from avalanche.training.plugins import (
    BiCPlugin,
    CoPEPlugin,
    EvaluationPlugin,
    GDumbPlugin,
    GSS_greedyPlugin,
    MIRPlugin,
    RARPlugin,
    ReplayPlugin,
)
from avalanche.training.plugins.update_ncm import MemoryNCMUpdate
from torch import nn

from avalanche_plugin import (
    BudgetError,
    CondensedReplayPlugin,
    GenerativeReplayPlugin,
)
from avalanche_plugin.experiences import class_keys, warn_of_other_replay
from condense_core.errors import ArtefactError, ConfigError, DataError
from tests.avalanche_plugin.streams import (
    MEM_BYTES,
    STREAMS,
    NoiseMemory,
    Recorder,
    image_stream,
    mlp,
    nc_stream,
    replay,
    strategy,
)


def accuracy(model, digits):
    _, _, images, labels = digits
    model.eval()
    with torch.no_grad():
        return (model(images).argmax(1) == labels).float().mean().item()


@pytest.mark.parametrize("kind", STREAMS)
def test_the_swap_works_on_every_stream(kind, pairs, instant):
    """Same script, one line swapped; labels, tasks and arity keep their types."""
    for plugin in (ReplayPlugin(mem_size=50), replay(instant)):
        recorder = Recorder()
        run = strategy([plugin, recorder])
        arity, kinds = None, None
        for experience in STREAMS[kind](pairs)[:3]:
            run.train(experience)
            seen = [[v.dtype for v in batch] for batch in recorder.batches]
            arity = arity or len(seen[0])
            kinds = kinds or seen[0]
            assert all(types == kinds for types in seen)
            assert all(len(batch) == arity for batch in recorder.batches)
            assert not any(v.requires_grad for b in recorder.batches for v in b)


def test_minibatches_hold_seen_classes_only_and_in_balance(pairs, instant):
    recorder = Recorder()
    run = strategy([replay(instant), recorder])
    for number, experience in enumerate(nc_stream(pairs)[:4]):
        recorder.batches.clear()
        run.train(experience)
        counts = sum(torch.bincount(b[1], minlength=10) for b in recorder.batches)
        new = counts[2 * number : 2 * number + 2].float().mean()
        assert counts[2 * number + 2 :].sum() == 0
        if number:
            old = counts[: 2 * number].float()
            assert (old / new - 1).abs().max() < 0.1


def counts(recorder):
    """Images of each class in all minibatches."""
    return sum(torch.bincount(batch[1], minlength=10) for batch in recorder.batches)


@pytest.mark.parametrize("size", [1, 3, 10])
def test_small_minibatches_are_balanced_too(pairs, instant, size):
    """They have not all classes of the experience."""
    few = [type(p)(p.tensors[0][::6], p.tensors[1][::6]) for p in pairs]
    recorder = Recorder()
    run = strategy([replay(instant), recorder], train_mb_size=size)
    for experience in nc_stream(few, n_experiences=2):
        recorder.batches.clear()
        run.train(experience)
    old, new = counts(recorder).float().split(5)
    assert new.tolist() == [10] * 5
    assert old.sum() == pytest.approx(50, abs=1)
    assert old.min() > 0


def of_classes(pairs, *groups):
    """A stream of experiences of some classes each; a class may come again."""
    train, _ = pairs
    images, labels = train.tensors
    experiences = []
    for number, group in enumerate(groups):
        chosen = torch.isin(labels, torch.tensor(group))
        seen = images[chosen] * (1 - 0.1 * number)  # others each time
        data = type(train)(seen, labels[chosen])
        experiences.append(as_classification_dataset(data))
    return benchmark_from_datasets(train=experiences).train_stream


def test_a_stored_class_that_the_experience_has_is_not_replayed(pairs, instant):
    recorder = Recorder()
    run = strategy([replay(instant), recorder])
    for experience in of_classes(pairs, [0, 1], [2, 3], [1, 4]):
        recorder.batches.clear()
        run.train(experience)
    found = counts(recorder)
    assert found[[1, 4]].tolist() == [60, 60]
    assert (found[[0, 2, 3]] - 60).abs().max() <= 4
    assert found[5:].sum() == 0


def test_other_images_of_the_same_classes_are_replayed(pairs, instant):
    recorder = Recorder()
    run = strategy([replay(instant), recorder])
    for experience in of_classes(pairs, [0, 1], [0, 1]):
        recorder.batches.clear()
        run.train(experience)
    assert counts(recorder)[:2].tolist() == [120, 120]


def test_an_experience_that_is_trained_on_again_does_not_replay_itself(pairs, instant):
    recorder = Recorder()
    run = strategy([replay(instant), recorder])
    first, second, *_ = nc_stream(pairs)
    for experience, classes in ((first, 2), (first, 2), (second, 4), (second, 4)):
        recorder.batches.clear()
        run.train(experience)
        assert counts(recorder)[:classes].tolist() == [60] * classes
        assert counts(recorder)[classes:].sum() == 0


def test_a_fixed_number_of_replayed_images(pairs, instant):
    recorder = Recorder()
    run = strategy([replay(instant, batch_size_mem=7), recorder])
    for experience in nc_stream(pairs)[:2]:
        recorder.batches.clear()
        run.train(experience)
    whole = [len(batch[0]) for batch in recorder.batches if len(batch[0]) >= 32]
    assert set(whole) == {39}


@pytest.mark.parametrize(("channels", "by_default"), [(1, False), (3, True)])
def test_replayed_images_get_the_detail_their_generator_misses(
    pairs, instant, channels, by_default
):
    pairs = [
        type(pair)(images.repeat(1, channels, 1, 1), labels)
        for pair in pairs
        for images, labels in [pair.tensors]
    ]

    def replayed(detail):
        torch.manual_seed(0)  # of the loader
        recorder = Recorder()
        plugin = replay(instant, detail=detail)
        model = nn.Sequential(nn.Flatten(), nn.Linear(channels * 256, 10))
        run = strategy([plugin, recorder], model)
        for experience in nc_stream(pairs)[:2]:
            recorder.batches.clear()
            run.train(experience)
        images, labels = recorder.batches[0][:2]
        return images[labels < 2], labels, plugin.memory.missed_energy

    smooth, labels, missed = replayed(detail=False)
    sharp, same_labels, _ = replayed(detail=True)
    assert torch.equal(labels, same_labels)
    lent = (sharp - smooth).square().mean().item()
    # What images lack is lent, but for what the range of values cuts off.
    assert 0.2 * missed < lent < 1.2 * missed
    default, _, _ = replayed(detail=None)
    assert torch.equal(default, sharp if by_default else smooth)


def noise(**options):
    return CondensedReplayPlugin(memory=NoiseMemory(), batch_size_mem=3, **options)


def replayed(plugin):
    """The images that a plugin adds to its next minibatch."""
    own = torch.zeros(4, 1, 16, 16), torch.ones(4, dtype=torch.int64)
    run = SimpleNamespace(mbatch=list(own))
    plugin.before_training_iteration(run)
    return run.mbatch[0][4:]


def test_every_minibatch_gets_other_images():
    plugin = noise()
    assert not torch.equal(replayed(plugin), replayed(plugin))


def test_a_loaded_plugin_goes_on_with_the_images_that_would_have_come():
    plugin, other = noise(), noise()
    replayed(plugin)
    other.load_state_dict(plugin.state_dict())
    assert torch.equal(replayed(plugin), replayed(other))


def test_the_seed_decides_which_images_are_replayed():
    assert torch.equal(replayed(noise(seed=1)), replayed(noise(seed=1)))
    assert not torch.equal(replayed(noise(seed=1)), replayed(noise(seed=2)))


def test_the_memory_has_the_policy_and_the_seed_of_the_plugin():
    memory = CondensedReplayPlugin(policy="shared", seed=3).memory
    assert (memory.policy, memory.seed) == ("shared", 3)


@pytest.fixture
def widths(monkeypatch):
    """The energies that a width of the detail was chosen for, one a choice."""
    chosen = []

    def spy(images, energy):
        chosen.append(energy)
        return 1.0

    monkeypatch.setattr("avalanche_plugin.replay.matching_sigma", spy)
    return chosen


def test_the_width_of_the_detail_is_chosen_once_per_experience(pairs, widths):
    run = strategy([noise(detail=True)])
    for experience in nc_stream(pairs)[:2]:
        run.train(experience)
    assert len(widths) == 2


def test_the_width_of_the_detail_is_chosen_once_for_all_slices(pairs, widths):
    run = strategy([noise(detail=True)])
    online = split_online_stream(
        nc_stream(pairs)[:2], experience_size=40, access_task_boundaries=True
    )
    for part in online:
        run.train(part)
    assert len(widths) == 2


@pytest.mark.parametrize(("told", "expected"), [(None, 5), (7, 7)])
def test_the_memory_is_told_the_length_of_the_stream(pairs, told, expected):
    plugin = noise(expected_experiences=told)
    strategy([plugin]).train(nc_stream(pairs)[0])
    assert plugin.memory.expected == expected


def test_another_memory_is_told_nothing_but_the_length(pairs):
    plugin = noise()
    strategy([plugin]).train(nc_stream(pairs)[0])
    assert plugin.memory.told_more == {}


def sources(plugin):
    return [slot.source for slot in plugin.memory.slots]


def test_an_experience_that_is_trained_on_again_has_one_generator(pairs, instant):
    plugin = replay(instant)
    run = strategy([plugin])
    stream = nc_stream(pairs)
    for experience in stream[:2]:
        run.train(experience)
        run.train(experience)
    assert len(sources(plugin)) == 2
    first, second = sources(plugin)
    resumed = replay(instant)
    resumed.load_state_dict(plugin.state_dict())
    strategy([resumed]).train(nc_stream(pairs)[0])  # a second pass, of other objects
    assert sources(resumed) == [second, first]
    assert set(resumed.classes) == {(label, 0) for label in range(4)}


def test_a_second_pass_in_slices_replaces_too(pairs, instant):
    plugin = replay(instant)
    run = strategy([plugin])
    for _ in range(2):
        online = split_online_stream(
            nc_stream(pairs)[:2], experience_size=60, access_task_boundaries=True
        )
        for part in online:
            run.train(part)
    assert len(sources(plugin)) == 2


def test_the_same_place_in_another_benchmark_is_another_experience(pairs, instant):
    plugin = replay(instant, expected_experiences=3)
    run = strategy([plugin], MTSimpleMLP(input_size=256))
    run.train(nc_stream(pairs)[0])
    train, test = pairs
    dark = type(train)(train.tensors[0] / 2, train.tensors[1])
    run.train(nc_stream((dark, test))[0])
    of_a_task = nc_stream(pairs, task_labels=True)[1:]
    relabelled = nc_stream(pairs, fixed_class_order=[2, 3, 0, 1, *range(4, 10)])
    run.train(next(iter(relabelled[:1])))
    assert len(set(sources(plugin))) == 3
    run.train(next(iter(of_a_task)))
    assert len(set(sources(plugin))) == 4


def test_a_stream_in_two_slices_is_one_stream(pairs, instant, caplog):
    plugin = replay(instant)
    run = strategy([plugin])
    stream = nc_stream(pairs)
    run.train(next(iter(stream[:1])))
    (first,) = plugin.memory.slots
    for experience in stream[1:]:
        run.train(experience)
    assert plugin.memory.slots[0] == first  # it was not condensed again
    assert not caplog.records


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_training_in_double_precision(pairs, instant, double):
    train, test = (type(p)(p.tensors[0].double(), p.tensors[1]) for p in pairs)
    recorder = Recorder()
    run = strategy([replay(instant, detail=True), recorder])
    for experience in nc_stream((train, test))[:2]:
        run.train(experience)
    assert {batch[0].dtype for batch in recorder.batches} == {torch.float64}


def test_a_larger_first_experience_has_a_larger_part(pairs, instant):
    def sizes(**options):
        plugin = replay(instant, **options)
        run = strategy([plugin])
        stream = nc_stream(pairs, n_experiences=3, per_exp_classes={0: 6})
        for experience in stream:
            run.train(experience)
            assert plugin.nbytes <= MEM_BYTES
        return [slot.nbytes for slot in plugin.memory.slots]

    large, *small = sizes()
    assert MEM_BYTES // 3 < large <= MEM_BYTES * 6 // 10
    assert max(small) <= MEM_BYTES // 5
    assert max(sizes(expected_experiences=3)) <= MEM_BYTES // 3  # by request


def test_the_first_experience_is_that_of_naive(pairs, instant, digits):
    """Bit for bit, and so are the random states left behind."""
    results = []
    for plugins in ([], [replay(instant)]):
        model = mlp()
        run = strategy(plugins, model)
        np.random.seed(0)  # noqa: NPY002
        first = nc_stream(pairs)[0]
        torch.manual_seed(3)
        run.train(first)
        results.append(
            (
                copy.deepcopy(model.state_dict()),
                copy.deepcopy(run.optimizer.state_dict()),
                torch.rand(3),
                np.random.rand(),  # noqa: NPY002
                model.training,
                [p.grad.clone() for p in model.parameters()],
            )
        )
    naive, ours = results
    assert all(torch.equal(naive[0][key], ours[0][key]) for key in naive[0])
    for state in naive[1]["state"]:
        for key, value in naive[1]["state"][state].items():
            assert torch.equal(value, ours[1]["state"][state][key])
    assert torch.equal(naive[2], ours[2])
    assert naive[3:5] == ours[3:5]
    assert all(torch.equal(a, b) for a, b in zip(naive[5], ours[5], strict=True))


@pytest.mark.parametrize(
    "policy", ["experience", pytest.param("shared", marks=pytest.mark.slow)]
)
def test_it_forgets_less_than_naive(pairs, quick, digits, policy):
    scores = []
    for plugins in ([], [replay(quick, policy=policy)]):
        model = mlp()
        run = strategy(plugins, model, train_epochs=8)
        for experience in nc_stream(pairs):
            run.train(experience)
        scores.append(accuracy(model, digits))
    naive, ours = scores
    assert naive < 0.4
    assert ours > naive + 0.2


def test_growing_heads(pairs, instant):
    class Growing(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(nn.Flatten(), nn.Linear(256, 32), nn.ReLU())
            self.classifier = IncrementalClassifier(32, initial_out_features=2)

        def forward(self, x):
            return self.classifier(self.features(x))

    run = strategy([replay(instant)], Growing())
    for experience in nc_stream(pairs)[:3]:
        run.train(experience)
    assert run.model.classifier.classifier.out_features == 6


def test_several_heads_get_each_image_under_its_own_task(pairs, instant):
    class Heads(MultiTaskModule):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(nn.Flatten(), nn.Linear(256, 32), nn.ReLU())
            self.classifier = MultiHeadClassifier(32, initial_out_features=2)

        def forward(self, x, task_labels):
            return self.classifier(self.features(x), task_labels)

    recorder = Recorder()
    run = strategy([replay(instant), recorder], Heads())
    stream = nc_stream(pairs, task_labels=True, class_ids_from_zero_in_each_exp=True)
    for experience in stream[:3]:
        recorder.batches.clear()
        run.train(experience)
    _, labels, tasks = recorder.batches[0]
    assert set(labels.tolist()) == {0, 1}
    assert set(tasks.tolist()) == {0, 1, 2}
    assert run.plugins[0].classes == ((0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2))


@pytest.mark.parametrize("size", [40, 50])  # 120 images: whole slices or not
def test_an_online_stream_is_condensed_once_per_boundary(pairs, instant, size):
    plugin = replay(instant)
    run = strategy([plugin])
    observed = []
    for experience in nc_stream(pairs)[:2]:
        online = split_online_stream(
            [experience], experience_size=size, access_task_boundaries=True
        )
        for part in online:
            run.train(part)
            observed.append(plugin.memory.observed)
    assert observed[-1] == 2
    assert observed[len(observed) // 2 - 1] == 1
    assert observed[0] == 0


def test_a_plugin_restored_within_an_experience_condenses_it(pairs, instant):
    (experience,) = nc_stream(pairs)[:1]
    first, *rest = split_online_stream(
        [experience], experience_size=40, access_task_boundaries=True
    )
    plugin = replay(instant)
    strategy([plugin]).train(first)
    restored = replay(instant)
    restored.load_state_dict(plugin.state_dict())
    run = strategy([restored])
    for part in rest:
        run.train(part)
    assert restored.memory.observed == 1


def test_an_online_stream_without_boundaries_is_refused(pairs, instant):
    run = strategy([replay(instant)])
    online = list(split_online_stream(nc_stream(pairs)[:1], experience_size=20))
    with pytest.raises(DataError, match="access_task_boundaries=True"):
        run.train(online[0])


def test_images_are_condensed_from_the_evaluation_transforms(digits, quick):
    plugin = replay(quick)
    run = strategy([plugin])
    for experience in image_stream(digits)[:2]:
        run.train(experience)
    images, labels, *_ = digits
    generated, drawn, _ = plugin.memory.sample(200, torch.Generator())
    # Inversion and crops would give every image a mean near that of grey.
    real = (images[labels < 4].mean() - 0.3) / 0.4
    assert generated.mean() == pytest.approx(float(real), abs=0.3)
    assert generated.min() == pytest.approx((0 - 0.3) / 0.4, abs=0.1)
    assert set(drawn.tolist()) == {0, 1, 2, 3}


def test_loader_workers_and_augmentation(digits, instant):
    run = strategy([replay(instant)])
    for experience in image_stream(digits)[:2]:
        run.train(experience, num_workers=2)
    assert run.plugins[0].memory.observed == 2


class Readers(torch.utils.data.Dataset):
    """Images whose value is the number of the process that read them, from 1."""

    targets = [0, 1] * 300

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        worker = torch.utils.data.get_worker_info()
        number = 0.0 if worker is None else worker.id + 1.0
        return torch.full((1, 8, 8), number), self.targets[index]


@pytest.mark.parametrize(
    ("options", "readers"), [({}, {0}), ({"num_workers": 2}, {1, 2})]
)
def test_an_experience_is_read_by_the_workers_of_the_training(options, readers):
    seen = []

    class Watching(NoiseMemory):
        classes = ()  # so that nothing is replayed

        def observe(self, images, labels, tasks, *, expected=None):
            seen.extend(images.flatten().unique().tolist())
            return ""

    stream = nc_benchmark(
        Readers(), Readers(), n_experiences=1, task_labels=False
    ).train_stream
    plugin = CondensedReplayPlugin(memory=Watching(), batch_size_mem=1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    strategy([plugin], model, train_mb_size=300).train(stream[0], **options)
    assert set(seen) == readers


@pytest.fixture
def optimisers_can_be_pickled(monkeypatch):
    """dill cannot find torch's optimiser modules, which torch deletes on import."""
    for name in ("sgd", "adam", "adamw"):
        module = sys.modules[f"torch.optim.{name}"]
        monkeypatch.setattr(torch.optim, name, module, raising=False)


RESUME = """
import sys, torch, warnings
warnings.simplefilter("ignore")
for name in ("sgd", "adam", "adamw"):
    setattr(torch.optim, name, sys.modules["torch.optim." + name])
from avalanche.checkpointing import maybe_load_checkpoint
from avalanche.training.supervised import Naive
from torch import nn
model = nn.Linear(1, 1)
blank = Naive(model=model, optimizer=torch.optim.Adam(model.parameters()))
run, start = maybe_load_checkpoint(blank, {path!r})
plugin = next(p for p in run.plugins if hasattr(p, "memory"))
x, y, t = plugin.memory.sample(8, torch.Generator().manual_seed(0))
print(start, plugin.nbytes, plugin.classes, repr(x.double().sum().item()))
"""


def test_checkpoints_resume_in_a_new_process(
    pairs, instant, tmp_path, optimisers_can_be_pickled
):
    plugin = replay(instant)
    run = strategy([plugin])
    stream = nc_stream(pairs)
    for experience in stream[:2]:
        run.train(experience)
    path = tmp_path / "checkpoint.pkl"
    save_checkpoint(run, path)
    done = subprocess.run(
        [sys.executable, "-c", RESUME.format(path=str(path))],
        capture_output=True,
        text=True,
        check=True,
    )
    total = plugin.memory.sample(8, torch.Generator().manual_seed(0))[0]
    said = f"2 {plugin.nbytes} {plugin.classes} {total.double().sum().item()!r}"
    assert done.stdout.strip().splitlines()[-1] == said
    resumed, start = maybe_load_checkpoint(strategy([]), path)
    resumed.train(stream[start])
    assert resumed.plugins[0].memory.observed == 3


def test_a_pickled_plugin_holds_generators_and_no_image(pairs, instant):
    plugin = replay(instant)
    run = strategy([plugin])
    for experience in nc_stream(pairs)[:3]:
        run.train(experience)
    data = dill.dumps(plugin)
    assert len(data) < 1.2 * plugin.nbytes + 5000  # the configuration
    for image in pairs[0].tensors[0][::20]:
        for pixels in (image, (image * 255).round().byte()):
            assert pixels.numpy().tobytes() not in data
            assert pixels[0, 8].numpy().tobytes() * 2 not in data


def test_state_dict_goes_on(pairs, instant, tmp_path):
    plugin = replay(instant)
    run = strategy([plugin])
    for experience in nc_stream(pairs)[:2]:
        run.train(experience)
    torch.save(plugin.state_dict(), tmp_path / "plugin.pt")
    other = CondensedReplayPlugin(preset=instant)
    other.load_state_dict(torch.load(tmp_path / "plugin.pt", weights_only=True))
    assert other.nbytes == plugin.nbytes
    run = strategy([other])
    run.train(nc_stream(pairs)[2])
    assert len(other.classes) == 6
    assert other.memory.budget == MEM_BYTES


def test_an_incomplete_state_is_refused_and_does_no_harm(pairs, instant):
    plugin = replay(instant)
    strategy([plugin]).train(nc_stream(pairs)[0])
    for key in ("memory", "iterations", "slices"):
        state = plugin.state_dict()
        del state[key]
        with pytest.raises(ArtefactError, match=key):
            CondensedReplayPlugin(preset=instant).load_state_dict(state)


def test_a_loaded_memory_moves_to_the_device_of_the_strategy(pairs, instant):
    plugin = replay(instant)
    strategy([plugin]).train(nc_stream(pairs)[0])
    other = CondensedReplayPlugin(preset=instant, device="meta")
    other.load_state_dict(plugin.state_dict())
    run = strategy([other])
    run.experience = nc_stream(pairs)[1]
    other.before_training_exp(run)
    assert other.memory.device == "meta"
    assert other.memory.classes == plugin.memory.classes


@pytest.mark.parametrize(
    ("policy", "mem_bytes", "advice"),
    [("experience", 10_000, "or share one"), ("shared", 3_300, "bytes$")],
)
def test_a_stream_that_turns_out_too_long_stops_before_its_training(
    pairs, instant, policy, mem_bytes, advice
):
    plugin = CondensedReplayPlugin(
        mem_bytes=mem_bytes, preset=instant, policy=policy, expected_experiences=1
    )
    recorder = Recorder()
    run = strategy([plugin, recorder])

    def train():
        for experience in nc_stream(pairs):
            recorder.batches.clear()
            run.train(experience)

    with pytest.raises(BudgetError, match=f"give the memory at least.*{advice}"):
        train()
    assert plugin.classes  # of the experiences that fitted
    assert not recorder.batches


def test_a_data_set_without_a_list_of_targets_is_counted(pairs):
    class Bare(torch.utils.data.Dataset):
        def __len__(self):
            return 6

        def __getitem__(self, index):
            return torch.rand(1, 8, 8), index % 3

    data = AvalancheDataset([Bare()])
    assert not hasattr(data, "targets")
    assert class_keys(data) == ((0, 0), (1, 0), (2, 0))
    assert class_keys(nc_stream(pairs)[0].dataset) == ((0, 0), (1, 0))


def test_sizes_after_the_first_have_to_be_named():
    # In ReplayPlugin the second is the batch size, in ours there is none.
    with pytest.raises(TypeError, match="positional"):
        CondensedReplayPlugin(200, 64, 32)


def test_the_bound_holds_after_every_experience(pairs, instant):
    plugin = CondensedReplayPlugin(mem_size=200, preset=instant)
    run = strategy([plugin])
    for experience in nc_stream(pairs):
        run.train(experience)
        assert 0 < plugin.nbytes <= 200 * 256
    assert plugin.memory.budget == 200 * 256


def test_another_replay_plugin_is_warned_about(pairs, instant):
    run = strategy([replay(instant), ReplayPlugin(mem_size=20)])
    with pytest.warns(UserWarning, match="ReplayPlugin .* both replay"):
        run.train(nc_stream(pairs)[0])


class Rehearsal(GDumbPlugin):
    """A plugin of one's own that is one of Avalanche's."""


@pytest.mark.parametrize(
    "other",
    [
        BiCPlugin,
        CoPEPlugin,
        GDumbPlugin,
        GSS_greedyPlugin,
        MIRPlugin,
        RARPlugin,
        ReplayPlugin,
        Rehearsal,
    ],
)
def test_every_plugin_that_replays_is_warned_about(other):
    plugin = object.__new__(other)  # as if configured: only its class counts
    with pytest.warns(UserWarning, match=f"{other.__name__} and .* both replay"):
        warn_of_other_replay([plugin], noise())


def test_a_plugin_that_stores_samples_but_does_not_replay_is_not_warned_about():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warn_of_other_replay([MemoryNCMUpdate(mem_size=20)], noise())


def test_alone_it_warns_of_nothing(pairs, instant):
    with warnings.catch_warnings():
        run = strategy([replay(instant)])
        warnings.simplefilter("error", UserWarning)
        run.train(nc_stream(pairs)[0])


def test_avalanches_own_class_stays_importable_beside_ours():
    from avalanche.training.plugins import GenerativeReplayPlugin as Theirs

    assert GenerativeReplayPlugin is CondensedReplayPlugin
    assert CondensedReplayPlugin.__name__ == "CondensedReplayPlugin"
    assert not issubclass(CondensedReplayPlugin, Theirs)


def test_one_line_says_what_was_condensed(pairs, instant, tmp_path):
    with open(tmp_path / "log.txt", "w+") as file:
        evaluator = EvaluationPlugin(accuracy_metrics(), loggers=[TextLogger(file)])
        run = strategy([replay(instant)], evaluator=evaluator)
        for experience in nc_stream(pairs)[:2]:
            run.train(experience)
        file.seek(0)
        lines = [line for line in file if line.startswith("condensed ")]
    assert len(lines) == 2
    assert lines[0].startswith("condensed 2 classes into ")


def test_nothing_is_shown_on_stderr(pairs, instant, capfd):
    strategy([replay(instant)]).train(nc_stream(pairs)[0])
    assert "pretrain" not in capfd.readouterr().err


def test_bad_sizes_are_refused():
    for options in (
        {"mem_size": 0},
        {"mem_size": 2.5},
        {"mem_size": None},
        {"mem_bytes": -1},
        {"batch_size_mem": 0},
        {"expected_experiences": 0},
    ):
        with pytest.raises(ConfigError, match="positive whole number"):
            CondensedReplayPlugin(**options)
    with pytest.raises(ConfigError, match="policy"):
        CondensedReplayPlugin(policy="none")
    with pytest.raises(ConfigError, match="unknown preset"):
        CondensedReplayPlugin(preset="replai")


def test_sizes_of_a_sweep_are_plain_numbers(pairs, instant, tmp_path):
    plugin = CondensedReplayPlugin(mem_size=np.int64(200), preset=instant)
    strategy([plugin]).train(nc_stream(pairs)[0])
    torch.save(plugin.state_dict(), tmp_path / "plugin.pt")
    state = torch.load(tmp_path / "plugin.pt", weights_only=True)
    assert state["memory"]["budget"] == 200 * 256


def test_vectors_are_refused(pairs, instant):
    train, _ = pairs
    flat = type(train)(train.tensors[0].flatten(1), train.tensors[1])
    stream = nc_benchmark(flat, flat, n_experiences=5, task_labels=False).train_stream
    with pytest.raises(DataError, match="not images"):
        strategy([replay(instant)]).train(stream[0])


@pytest.mark.parametrize("side", [4, 130])
def test_sides_that_no_generator_has_are_refused_before_training(pairs, instant, side):
    train, _ = pairs
    images = nn.functional.interpolate(train.tensors[0][::20], size=side)
    odd = type(train)(images, train.tensors[1][::20])
    stream = nc_benchmark(odd, odd, n_experiences=5, task_labels=False).train_stream
    recorder = Recorder()
    model = nn.Sequential(nn.Flatten(), nn.Linear(side**2, 10))
    run = strategy([replay(instant), recorder], model)
    with pytest.raises(DataError, match=r"8 to 128 in the evaluation transforms"):
        run.train(stream[0])
    assert not recorder.batches


def test_samples_with_more_elements_are_refused_before_training(pairs, instant):
    train, _ = pairs
    numbers = DataAttribute(range(600), "number", use_in_getitem=True)
    tasks = DataAttribute([0] * 600, "targets_task_labels", use_in_getitem=True)
    targets = DataAttribute(train.targets, "targets")
    data = AvalancheDataset([train], data_attributes=[targets, numbers, tasks])
    stream = benchmark_from_datasets(train=[data]).train_stream
    recorder = Recorder()
    with pytest.raises(DataError, match=r"4 elements.*use_in_getitem=False"):
        strategy([replay(instant), recorder]).train(stream[0])
    assert not recorder.batches


class Encode:
    """Labels as distributions, as mixing images makes them."""

    def before_training_iteration(self, strategy, **kwargs):
        labels = strategy.mbatch[1]
        strategy.mbatch[1] = nn.functional.one_hot(labels, 10).float()


def test_labels_that_are_no_numbers_are_refused_in_the_first_experience(pairs, instant):
    run = strategy([Encode(), replay(instant)])
    with pytest.raises(DataError, match=r"shape \(32, 10\).* behind this one"):
        run.train(nc_stream(pairs)[0])


def test_labels_may_be_encoded_behind_the_plugin(pairs, instant):
    recorder = Recorder()
    run = strategy([replay(instant), Encode(), recorder])
    for experience in nc_stream(pairs)[:2]:
        run.train(experience)
    assert recorder.batches[-1][1].shape[1] == 10


def test_classes_of_several_tasks_are_those_that_there_are(pairs):
    train, _ = pairs
    labels = train.tensors[1]
    chosen = labels < 4
    data = type(train)(train.tensors[0][chosen], labels[chosen])
    tasks = [label // 2 for label in data.targets]
    of_two_tasks = AvalancheDataset(
        [data],
        data_attributes=[
            DataAttribute(data.targets, "targets"),
            DataAttribute(tasks, "targets_task_labels", use_in_getitem=True),
        ],
    )
    assert class_keys(of_two_tasks) == ((0, 0), (1, 0), (2, 1), (3, 1))


def test_samples_without_labels_are_refused(instant):
    from avalanche_plugin.experiences import read_experience

    class Unlabelled(torch.utils.data.Dataset):
        def eval(self):
            return self

        def __len__(self):
            return 4

        def __getitem__(self, index):
            return torch.rand(1, 8, 8)

    with pytest.raises(DataError, match="no labels"):
        read_experience(Unlabelled())


def test_too_small_a_budget_is_refused_before_training(pairs, instant):
    plugin = CondensedReplayPlugin(mem_bytes=5_000, preset=instant)
    recorder = Recorder()
    run = strategy([plugin, recorder])
    with pytest.raises(BudgetError, match="give the memory at least") as caught:
        run.train(nc_stream(pairs)[0])
    assert not recorder.batches
    enough = int(str(caught.value).split("at least ")[1].split()[0])
    run = strategy([CondensedReplayPlugin(mem_bytes=enough, preset=instant)])
    for experience in nc_stream(pairs):
        run.train(experience)
        assert run.plugins[0].nbytes <= enough
