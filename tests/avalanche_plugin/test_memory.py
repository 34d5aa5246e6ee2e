import pickle
import subprocess
import sys

import pytest
import torch

from avalanche_plugin.memory import GeneratorMemory
from condense_core.artefact.budget import BudgetError
from condense_core.errors import ArtefactError, ConfigError, DataError

BUDGET = 60_000


def experience(digits, number, classes=2):
    images, labels, *_ = digits
    chosen = (labels // classes) == number
    return images[chosen], labels[chosen], torch.zeros_like(labels[chosen])


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def observed(digits, config, count=3, **options):
    memory = GeneratorMemory(BUDGET, config=config, device="cpu", **options)
    for number in range(count):
        memory.observe(*experience(digits, number))
    return memory


@pytest.mark.parametrize("policy", ["experience", "shared"])
@pytest.mark.parametrize("expected", [None, 3, 5])
def test_the_bound_holds_after_every_experience(digits, instant, policy, expected):
    memory = GeneratorMemory(BUDGET, policy=policy, config=instant, device="cpu")
    for number in range(5):
        memory.observe(*experience(digits, number), expected=expected)
        stored = memory.state_dict()["slots"]
        tensors = [v for slot in stored for v in slot.values() if torch.is_tensor(v)]
        on_disk = sum(tensor.nbytes for tensor in tensors)
        assert on_disk == memory.nbytes <= BUDGET
        assert len(memory.classes) == 2 * (number + 1)


def test_a_known_length_shares_the_budget_out_from_the_start(digits, instant):
    memory = GeneratorMemory(BUDGET, config=instant, device="cpu")
    packed = []
    for number in range(4):
        memory.observe(*experience(digits, number), expected=4)
        packed.append([slot.packed for slot in memory.slots])
    assert all(len(p) <= BUDGET // 4 for p in packed[0])
    assert packed[3][:3] == packed[2], "no generator was condensed again"


def test_an_unknown_length_halves_the_share(digits, instant):
    memory = GeneratorMemory(BUDGET, config=instant, device="cpu")
    largest = []
    for number in range(5):
        memory.observe(*experience(digits, number))
        largest.append(max(slot.nbytes for slot in memory.slots))
    for size, parts in zip(largest, (1, 2, 4, 4, 8), strict=True):
        assert size <= BUDGET // parts


def test_expected_classes_share_the_budget(digits, instant):
    images, labels, *_ = digits
    memory = GeneratorMemory(BUDGET, config=instant, device="cpu")
    groups = [(0, 6), (6, 8), (8, 10)]
    for low, high in groups:
        chosen = (labels >= low) & (labels < high)
        new = labels[chosen]
        memory.observe(images[chosen], new, new * 0, expected_classes=(6, 2, 2))
        assert memory.nbytes <= BUDGET
    large, *small = [slot.nbytes for slot in memory.slots]
    assert BUDGET // 5 < large <= BUDGET * 6 // 10
    assert max(small) <= BUDGET // 5


def test_more_classes_than_expected_stay_within_the_budget(digits, instant):
    memory = GeneratorMemory(BUDGET, config=instant, device="cpu")
    for number in range(3):
        memory.observe(*experience(digits, number), expected_classes=(2, 2))
        assert memory.nbytes <= BUDGET


def test_an_experience_with_too_small_a_part_is_refused_before_the_first():
    memory = GeneratorMemory(30_000, device="cpu")
    keys = tuple((label, 0) for label in range(8))
    memory.require((1, 16, 16), keys)
    with pytest.raises(BudgetError, match="smallest of 1 classes"):
        memory.require((1, 16, 16), keys, expected_classes=(8, 1, 1, 1, 1, 1, 1))


def test_a_stream_longer_than_expected_goes_on(digits, instant):
    memory = GeneratorMemory(BUDGET, config=instant, device="cpu")
    for number in range(3):
        memory.observe(*experience(digits, number), expected=2)
    assert len(memory.slots) == 3
    assert memory.nbytes <= BUDGET


@pytest.mark.parametrize(
    ("policy", "least"),  # chance is 0.17
    [("experience", 0.6), pytest.param("shared", 0.5, marks=pytest.mark.slow)],
)
def test_images_are_of_their_class(digits, quick, policy, least):
    """A nearest-mean classifier on real images recognises generated ones."""
    images, labels, *_ = digits
    means = torch.stack([images[labels == c].mean(dim=0) for c in range(6)])
    memory = observed(digits, quick, policy=policy)
    generated, targets, _ = memory.sample(300, draw())
    nearest = torch.cdist(generated.flatten(1), means.flatten(1)).argmin(dim=1)
    assert (nearest == targets).float().mean() > least


def test_samples_are_balanced_seen_and_reproducible(digits, instant):
    memory = observed(digits, instant)
    images, labels, tasks = memory.sample(20, draw())
    assert images.shape == (20, 1, 16, 16)
    assert not images.requires_grad
    counts = torch.bincount(labels, minlength=10)
    assert counts[:6].min() >= 3
    assert counts[6:].sum() == 0
    assert tasks.eq(0).all()
    again = memory.sample(20, draw())
    assert torch.equal(images, again[0])
    assert torch.equal(labels, again[1])
    other, *_ = memory.sample(20, draw(1))
    assert not torch.equal(images, other)


def test_fewer_samples_than_classes_reach_every_class_in_time(digits, instant):
    memory = observed(digits, instant)
    generator = draw()
    seen = {memory.sample(1, generator)[1].item() for _ in range(100)}
    assert seen == set(range(6))


def test_a_class_that_comes_again_is_one_class(digits, instant):
    images, labels, tasks = experience(digits, 0)
    for policy in ("experience", "shared"):
        memory = GeneratorMemory(BUDGET, policy=policy, config=instant, device="cpu")
        memory.observe(images, labels, tasks)
        memory.observe(images, labels, tasks)
        assert memory.classes == ((0, 0), (1, 0))
        _, drawn, _ = memory.sample(40, draw())
        assert torch.bincount(drawn).tolist() == [20, 20]


def sizes(memory):
    return [slot.nbytes for slot in memory.slots]


def test_the_generator_of_the_same_source_is_replaced(digits, instant, caplog):
    memory = GeneratorMemory(BUDGET, config=instant, device="cpu")
    for number in range(3):
        for _ in range(2):
            new = experience(digits, number)
            memory.observe(*new, expected=3, source=str(number))
    assert [slot.keys[0][0] for slot in memory.slots] == [0, 2, 4]
    assert min(sizes(memory)) > BUDGET // 6  # nothing was squeezed
    assert not caplog.records
    before = [slot.packed for slot in memory.slots]
    memory.require((1, 16, 16), ((0, 0), (1, 0)), expected=3, source="0")
    memory.observe(*experience(digits, 0), expected=3, source="0")
    assert [slot.packed for slot in memory.slots][:2] == before[1:]


def test_a_source_is_known_after_loading(digits, instant):
    memory = GeneratorMemory(BUDGET, config=instant, device="cpu")
    memory.observe(*experience(digits, 0), expected=2, source="0")
    memory.observe(*experience(digits, 1), expected=2)
    loaded = GeneratorMemory(1, config=instant, device="cpu")
    loaded.load_state_dict(memory.state_dict())
    loaded.observe(*experience(digits, 0), expected=2, source="0")
    assert [slot.source for slot in loaded.slots] == [None, "0"]


def test_a_state_without_sources_can_be_loaded(digits, instant):
    state = observed(digits, instant, count=1).state_dict()
    del state["slots"][0]["source"]
    loaded = GeneratorMemory(1, config=instant, device="cpu")
    loaded.load_state_dict(state)
    assert loaded.slots[0].source is None


def test_one_generator_of_several_sources_has_none(digits, instant):
    memory = GeneratorMemory(BUDGET, policy="shared", config=instant, device="cpu")
    sources = []
    for number in (0, 0, 1):
        memory.observe(*experience(digits, number), source=str(number))
        sources.append([slot.source for slot in memory.slots])
    assert sources == [["0"], ["0"], [None]]


def test_generators_that_are_condensed_again_are_warned_of(digits, instant, caplog):
    memory = GeneratorMemory(BUDGET, config=instant, device="cpu")
    for number in range(2):
        memory.observe(*experience(digits, number), expected=2)
    assert not caplog.records
    memory.observe(*experience(digits, 2), expected=2)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "2 of 2 stored generators are condensed again" in record.getMessage()


def test_the_same_label_under_two_tasks_is_two_classes(digits, instant):
    images, labels, tasks = experience(digits, 0)
    memory = GeneratorMemory(BUDGET, config=instant, device="cpu")
    memory.observe(images, labels, tasks)
    memory.observe(images, labels, tasks + 1)
    assert memory.classes == ((0, 0), (1, 0), (0, 1), (1, 1))
    _, _, drawn = memory.sample(40, draw())
    assert torch.bincount(drawn).tolist() == [20, 20]


def test_model_input_space_is_kept(digits, quick):
    images, labels, tasks = experience(digits, 0)
    memory = GeneratorMemory(BUDGET, config=quick, device="cpu")
    memory.observe((images - 0.3) / 0.2, labels, tasks)
    generated, *_ = memory.sample(200, draw())
    assert generated.min() == pytest.approx((0 - 0.3) / 0.2, abs=0.1)
    assert generated.mean() == pytest.approx(
        float(((images - 0.3) / 0.2).mean()), abs=0.3
    )


def test_a_shared_memory_widens_its_range(digits, instant):
    images, labels, tasks = experience(digits, 0)
    memory = GeneratorMemory(BUDGET, policy="shared", config=instant, device="cpu")
    memory.observe(images, labels, tasks)
    memory.observe(images * 4 - 2, labels + 2, tasks)
    assert memory.slots[0].values.low[0] == -2
    assert memory.slots[0].values.high[0] == 2


def test_state_goes_to_another_process(digits, instant, tmp_path):
    memory = observed(digits, instant)
    path = tmp_path / "memory.pt"
    torch.save(memory.state_dict(), path)
    code = (
        "import sys, torch; from avalanche_plugin.memory import GeneratorMemory\n"
        "assert 'avalanche' not in sys.modules\n"
        "m = GeneratorMemory(1, device='cpu')\n"
        f"m.load_state_dict(torch.load({str(path)!r}, weights_only=True))\n"
        "x, y, t = m.sample(9, torch.Generator().manual_seed(0))\n"
        "print(m.nbytes, m.budget, m.classes, repr(x.double().sum().item()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    total = memory.sample(9, draw())[0].double().sum().item()
    said = f"{memory.nbytes} {memory.budget} {memory.classes} {total!r}"
    assert done.stdout.strip() == said


def test_going_on_from_a_state_equals_going_on(digits, instant):
    whole = observed(digits, instant, count=3)
    half = observed(digits, instant, count=2)
    resumed = GeneratorMemory(1, config=instant, device="cpu")
    resumed.load_state_dict(half.state_dict())
    resumed.observe(*experience(digits, 2))
    assert [s.packed for s in resumed.slots] == [s.packed for s in whole.slots]


def test_a_loaded_memory_has_the_policy_of_the_stored_one(digits, instant):
    shared = observed(digits, instant, count=1, policy="shared")
    loaded = GeneratorMemory(1, config=instant, device="cpu")
    loaded.load_state_dict(shared.state_dict())
    loaded.observe(*experience(digits, 1))
    assert len(loaded.slots) == 1


def test_a_pickle_is_hardly_larger_than_what_is_stored(digits, instant):
    memory = observed(digits, instant)
    memory.sample(10, draw())  # makes working copies
    data = pickle.dumps(memory)
    assert len(data) < 1.2 * memory.nbytes + 3000  # the configuration and class names
    again = pickle.loads(data)
    assert torch.equal(again.sample(5, draw())[0], memory.sample(5, draw())[0])


def test_no_training_image_is_in_the_state(digits, instant):
    memory = observed(digits, instant)
    # Packed sets are compressed: what is in them would not be found.
    data = pickle.dumps([slot.unpack("cpu").tensors for slot in memory.slots])
    data += pickle.dumps(memory.state_dict())
    images, *_ = experience(digits, 0)
    as_bytes = (images * 255).round().byte()
    for pixels in (images, as_bytes, images.half()):
        for image in pixels[:50]:
            row = image[0, 8].numpy().tobytes()  # one row through the middle
            assert len(set(row)) < 4 or row not in data


def test_observing_touches_no_global_state(digits, instant, untouched_global_rng):
    memory = observed(digits, instant)
    memory.sample(5, draw())


@pytest.fixture(params=["autocast", "float64"])
def surroundings(request):
    """What a caller may have around the calls of a memory."""
    if request.param == "autocast":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            yield
            assert torch.is_autocast_enabled("cpu")
    else:
        torch.set_default_dtype(torch.float64)
        yield
        assert torch.get_default_dtype() is torch.float64
        torch.set_default_dtype(torch.float32)


@pytest.fixture
def undisturbed(digits, instant):
    memory = observed(digits, instant, count=1)
    return memory.slots[0].packed, memory.sample(9, draw())[0], memory.missed_energy


def test_the_arithmetic_of_the_caller_stays_outside(
    digits, instant, undisturbed, surroundings
):
    memory = observed(digits, instant, count=1)
    packed, images, missed = undisturbed
    assert memory.slots[0].packed == packed
    assert torch.equal(memory.sample(9, draw())[0], images)
    assert memory.missed_energy == missed


def test_unknown_version_is_refused():
    memory = GeneratorMemory(BUDGET, device="cpu")
    with pytest.raises(ArtefactError, match="version"):
        memory.load_state_dict({"version": 99})


def test_an_incomplete_state_is_refused_and_does_no_harm(digits, instant):
    memory = observed(digits, instant, count=1)
    for key in ("budget", "policy", "observed", "slots"):
        state = memory.state_dict()
        del state[key]
        with pytest.raises(ArtefactError, match=key):
            memory.load_state_dict(state)
    assert len(memory.slots) == 1


def test_bad_arguments_say_what_and_why():
    for budget in (0, -5, 3.5, True):
        with pytest.raises(ConfigError, match="whole number"):
            GeneratorMemory(budget)
    with pytest.raises(ConfigError, match="experience, shared"):
        GeneratorMemory(1, policy="both")
    with pytest.raises(DataError, match="empty"):
        GeneratorMemory(1).sample(1, draw())


def test_a_budget_too_small_says_how_much_is_needed(digits, instant):
    memory = GeneratorMemory(500, config=instant, device="cpu")
    with pytest.raises(BudgetError, match="give the memory at least") as caught:
        memory.observe(*experience(digits, 0), expected=2)
    text = str(caught.value).split("at least ")[1]
    enough = GeneratorMemory(int(text.split()[0]), config=instant, device="cpu")
    enough.observe(*experience(digits, 0), expected=2)
    assert not memory.slots, "nothing was stored by the failed call"


def test_fewer_bytes_than_experiences_are_too_few():
    memory = GeneratorMemory(3, device="cpu")
    with pytest.raises(BudgetError, match="bytes for each experience, or share one"):
        memory.require((1, 16, 16), ((0, 0), (1, 0)), expected=5)


def test_what_images_miss_is_in_the_units_of_the_images(digits, quick):
    images, labels, tasks = experience(digits, 0)
    missed = []
    for scale in (1.0, 3.0):
        memory = GeneratorMemory(BUDGET, config=quick, device="cpu")
        assert memory.missed_energy == 0.0
        memory.observe(images * scale - 1.0, labels, tasks)
        missed.append(memory.missed_energy)
    assert missed[1] == pytest.approx(9 * missed[0], rel=1e-3)
    # Total variance: that of the generated images and what they miss of the real ones.
    drawn = memory.sample(400, draw())[0]
    real = 9 * images.var(dim=0).mean().item()
    assert missed[1] == pytest.approx(real - drawn.var(dim=0).mean().item(), rel=0.5)


def test_what_images_miss_is_averaged_over_the_generators(digits, instant):
    memory = GeneratorMemory(BUDGET, config=instant, device="cpu")
    for number in range(2):
        memory.observe(*experience(digits, number), expected=2)
    of_each = [slot.missed_energy(slot.unpack("cpu")) for slot in memory.slots]
    assert memory.missed_energy == pytest.approx(sum(of_each) / 2)


def test_dispersed_images_are_rougher(digits, quick):
    memory = observed(digits, quick, count=1)
    smooth = memory.sample(50, draw())[0]
    rough = memory.sample(50, draw(), dispersed=True)[0]
    assert not torch.equal(smooth, rough)
    assert (rough - smooth).square().mean().item() == pytest.approx(
        memory.missed_energy, rel=0.5
    )
