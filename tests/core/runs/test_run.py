import json
import pkgutil
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from condense_core import loop_state, monitor
from condense_core.artefact import CondensedDataset
from condense_core.config import LOSS_TERMS
from condense_core.data import ImageData
from condense_core.errors import ConfigError, DataError, RunError
from condense_core.runs import directory
from condense_core.runs.run import condense, memory_advice


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the package catches it."""


@pytest.fixture
def tiny_config(tiny_config):
    return tiny_config.with_overrides(
        ["loop.network_updates=2", "loop.generator_updates=1"]
    )


@pytest.fixture
def kill_at():
    """Raise `Killed` at a call of a function, given by its dotted name."""

    def install(target: str, call: int, *, after: bool = False):
        context = pytest.MonkeyPatch()
        holder, _, name = target.rpartition(".")
        owner = pkgutil.resolve_name(holder)
        original = getattr(owner, name)
        calls = []

        def wrapper(*args, **kwargs):
            calls.append(None)
            if len(calls) == call and not after:
                raise Killed
            result = original(*args, **kwargs)
            if len(calls) == call:
                raise Killed
            return result

        context.setattr(owner, name, wrapper)
        return context

    return install


@pytest.fixture
def saved_always(monkeypatch):
    monkeypatch.setattr(directory, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(monitor, "LOG_EVERY", 1)


def files(out) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}


# What a run gives


def test_progress_can_be_switched_off(tiny_config, tiny_data, capsys):
    condense(tiny_data, tiny_config, device="cpu", progress=False)
    assert capsys.readouterr().err == ""
    condense(tiny_data, tiny_config, device="cpu")
    assert "pretrain" in capsys.readouterr().err


def test_a_run_gives_an_artefact_and_its_files(tiny_config, tiny_data, tmp_path):
    condensed = condense(tiny_data, tiny_config, out=tmp_path / "run", device="cpu")
    out = tmp_path / "run"
    assert set(files(out)) == {
        "condensed.safetensors",
        "config.yaml",
        "metrics.jsonl",
        "samples.png",
    }
    assert len(list(out.iterdir())) == 4  # the checkpoint is gone
    loaded = CondensedDataset.load(out / "condensed.safetensors")
    assert torch.equal(loaded.images()[0], condensed.images()[0])
    assert loaded.to_bytes() == condensed.to_bytes()
    assert condensed.images()[0].shape == (6, 1, 8, 8)
    assert condensed.classes == tiny_data.classes
    assert condensed.statistics == tiny_data.statistics()
    assert condensed.metadata["config"] == tiny_config.to_dict()
    assert condensed.metadata["data"] == {
        "name": "tiny",
        "images": 30,
        "images_per_class": [10, 10, 10],
        "fingerprint": tiny_data.fingerprint(),
    }
    assert condensed.metadata["versions"]["torch"] == torch.__version__
    lines = [json.loads(x) for x in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 3]


def test_without_a_directory_nothing_is_written(
    tiny_config, tiny_data, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    condensed = condense(tiny_data, tiny_config, device="cpu")
    assert list(tmp_path.iterdir()) == []
    kept = condense(tiny_data, tiny_config, out=tmp_path / "run", device="cpu")
    assert kept.to_bytes() == condensed.to_bytes()


def test_the_source_of_the_images_does_not_matter(tiny_config, tiny_images):
    images, labels = tiny_images
    made = [
        condense(source, tiny_config, device="cpu").images()[0]
        for source in (
            (images, labels),
            (images.numpy(), labels.numpy()),
            (images.float() / 255, labels),
            TensorDataset(images, labels),
        )
    ]
    for other in made[1:]:
        assert torch.equal(made[0], other)


def test_the_seed_decides(tiny_config, tiny_data):
    def run(seed: int) -> bytes:
        config = tiny_config.with_overrides([f"seed={seed}"])
        return condense(tiny_data, config, device="cpu").to_bytes()

    first = run(0)
    assert run(0) == first
    other = CondensedDataset.from_bytes(run(1)).images()[0]
    assert not torch.equal(other, CondensedDataset.from_bytes(first).images()[0])


def test_global_randomness_neither_matters_nor_changes(tiny_config, tiny_data):
    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        before = (
            torch.get_rng_state(),
            np.random.get_state()[1].tolist(),  # noqa: NPY002
            random.getstate(),
        )
        made.append(condense(tiny_data, tiny_config, device="cpu").to_bytes())
        CondensedDataset.from_bytes(made[-1])
        assert torch.equal(before[0], torch.get_rng_state())
        assert before[1] == np.random.get_state()[1].tolist()  # noqa: NPY002
        assert before[2] == random.getstate()
    assert made[0] == made[1]


def test_training_images_shape_the_result(tiny_config, tiny_data, device):
    config = tiny_config.with_overrides(["pretrain.steps=150"])
    images, _ = condense(tiny_data, config, device=device).images()
    # Each class is a bright bar at its own place.
    columns = images.mean(dim=(1, 2)).unflatten(0, (3, 2)).mean(dim=1)
    for label, row in enumerate(columns):
        bar = row[2 * label : 2 * label + 2].mean()
        rest = (row.sum() - 2 * bar) / 6
        assert bar > rest + 0.2


# Every way to condense


def only(term: str) -> list[str]:
    return [f"loss.{name}={float(name == term)}" for name in LOSS_TERMS]


VARIANTS = {
    "all terms": [f"loss.{name}=0.5" for name in LOSS_TERMS],
    **{f"only {term}": only(term) for term in LOSS_TERMS},
    "trajectory step by step": [
        *only("trajectory"),
        "trajectory.through_steps=false",
    ],
    "fixed generator": ["format.generator=fixed"],
    "adam": ["optimiser.name=adam"],
    "sgd": ["optimiser.name=sgd", "optimiser.decay=none"],
    "pixels": ["format.kind=pixels"],
    "pixels sgd": ["format.kind=pixels", "optimiser.name=sgd"],
    "pixels soft": ["format.kind=pixels", "loss.soft_labels=true"],
    "online": ["format.embedding=online"],
    "one hot": ["format.embedding=one_hot"],
    "one hot pixels": ["format.embedding=one_hot", "format.kind=pixels"],
    "uniform": ["format.codes=uniform"],
    "truncated": ["format.codes=truncated"],
    "subsets": ["loop.classes_per_step=2", "loop.codes_per_step=1"],
    "one class a step": ["loop.classes_per_step=1"],
    "no reuse": ["loop.reuse_association=false"],
    "soft labels": ["loss.soft_labels=true"],
    "soft subsets": ["loss.soft_labels=true", "loop.classes_per_step=2"],
    "auxiliary": ["loss.classifier=auxiliary"],
    "auxiliary alone": [*only("classification"), "loss.classifier=auxiliary"],
    "pixel space": ["loss.adversarial_space=pixel"],
    "pixel auxiliary": ["loss.adversarial_space=pixel", "loss.classifier=auxiliary"],
    "pixel auxiliary of a resnet": [
        "loss.adversarial_space=pixel",
        "loss.classifier=auxiliary",
        "network.name=resnet18",
    ],
    "saturating": ["loss.saturating=true"],
    "per sample": ["loss.matching_mode=per_sample"],
    "no centre": ["loss.intra_centre=none"],
    "class centre": ["loss.intra_centre=class_embedding"],
    "raw margin": ["loss.margin_relative=false"],
    "int8": ["format.precision=int8"],
    "fp16": ["format.precision=fp16"],
    "pixels int8": ["format.kind=pixels", "format.precision=int8"],
    "one image": ["format.images_per_class=1"],
    "gan start": ["pretrain.method=adversarial"],
    "variational start": ["pretrain.method=variational"],
    "code map of each class": [
        "pretrain.method=variational",
        "format.code_map=per_class",
    ],
    "start alone": ["loop.restarts=0"],
    "gradients": ["loss.gradient=1"],
    "gradients alone": [*only("gradient"), "loop.classes_per_step=2"],
    "gradients anew": ["loss.gradient=1", "loop.reuse_association=false"],
    "image start": ["pretrain.targets=images"],
    "medoid start": ["pretrain.targets=medoids"],
    "medoids, no class mean": ["pretrain.targets=medoids", "format.embedding=one_hot"],
    "no start": ["pretrain.method=none"],
    "no augmentation": ["augment=none"],
    "mlp": ["network.name=mlp"],
    "probed": ["evaluate.probe_every=2"],
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_way_to_condense_ends_in_an_artefact_of_its_own(
    tiny_config, tiny_data, name
):
    updates = 2 if name == "no reuse" else 1  # of a phi
    plain = tiny_config.with_overrides(
        ["loop.restarts=1", f"loop.generator_updates={updates}"]
    )
    config = plain.with_overrides(VARIANTS[name])
    condensed = condense(tiny_data, config, device="cpu")
    other = condense(tiny_data, plain, device="cpu").tensors
    tensors = condensed.tensors
    same = tensors.keys() == other.keys() and all(
        torch.equal(tensors[key], other[key]) for key in other
    )
    assert same == (name == "probed")
    images, labels = condensed.images()
    count = config.format.images_per_class
    assert images.shape == (3 * count, 1, 8, 8)
    assert labels.tolist() == sorted([0, 1, 2] * count)
    assert images.std() > 0
    loaded = CondensedDataset.from_bytes(condensed.to_bytes())
    assert torch.equal(loaded.images()[0], images)
    assert loaded.precision == config.format.precision
    assert loaded.spec.kind == config.format.kind


# What a GPU computes in a way of its own; `--device cuda` tests it there.
PLACES = {
    **{name: VARIANTS[name] for name in ("all terms", "pixels", "variational start")},
    "students at once": ["unrolled.at_once=2", "unrolled.normalise=true"],
    "bf16": ["compute.precision=bf16"],
}


@pytest.mark.parametrize("name", PLACES)
def test_a_run_stopped_on_any_device_goes_on_and_is_read_on_the_cpu(
    tiny_config, tiny_data, tmp_path, saved_always, kill_at, device, name
):
    config = tiny_config.with_overrides(PLACES[name])
    killer = kill_at("condense_core.loop_state.LoopState.train_network", 3)
    with pytest.raises(Killed):
        condense(tiny_data, config, out=tmp_path / "run", device=device)
    killer.undo()
    resumed = condense(tiny_data, config, out=tmp_path / "run", device=device)
    whole, _ = condense(tiny_data, config, device=device).images()
    assert whole.device.type == device.type
    assert whole.std() > 0.05
    rounding = 0.0 if device.type == "cpu" else 0.02
    assert (resumed.images()[0] - whole).abs().mean() <= rounding
    read = CondensedDataset.load(tmp_path / "run" / "condensed.safetensors")
    difference = read.images()[0] - resumed.images()[0].cpu()
    assert difference.abs().max() <= rounding


@pytest.mark.parametrize("kind", ["generator", "pixels"])
@pytest.mark.parametrize("shape", [(1, 40, 56), (3, 8, 9)])
def test_images_need_not_be_square(tiny_config, kind, shape):
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, *shape), generator=draw).to(torch.uint8)
    config = tiny_config.with_overrides([f"format.kind={kind}", "loop.restarts=1"])
    condensed = condense((images, torch.arange(6) % 2), config, device="cpu")
    assert condensed.images()[0].shape == (4, *shape)


@pytest.mark.parametrize("embedding", ["class_mean", "online", "one_hot"])
def test_a_single_class_condenses(tiny_config, tiny_images, embedding):
    images, labels = tiny_images
    config = tiny_config.with_overrides(
        [f"format.embedding={embedding}", "format.images_per_class=1"]
    )
    condensed = condense((images[:10], labels[:10]), config, device="cpu")
    made, made_labels = condensed.images()
    assert made.shape == (1, 1, 8, 8)
    assert made_labels.tolist() == [0]
    assert made.std() > 0


# What is refused


def test_a_class_that_is_too_small_is_named(tiny_config, tiny_data, tmp_path):
    config = tiny_config.with_overrides(["format.images_per_class=4"])
    small = tiny_data.subset(torch.arange(23))
    with pytest.raises(DataError, match=r"'right' has 3 images.*images_per_class=3"):
        condense(small, config, out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_the_name_of_a_preset_is_no_configuration(tiny_data):
    with pytest.raises(ConfigError, match=r"config is 'digits': give a CondenseConfig"):
        condense(tiny_data, "digits")


def test_an_empty_class_is_named(tiny_config, tiny_data):
    with pytest.raises(DataError, match="class 'right' has no images"):
        condense(tiny_data.subset(torch.arange(20)), tiny_config, device="cpu")


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("network.depth=9", "depth 9"),
        ("loss.layer_weights=[1,1,1,1,1,1,1]", "layer_weights has 7"),
        ("format.latent_dim=70000", "latent_dim is 70000: it must be 1 to 65536"),
    ],
)
def test_what_does_not_fit_is_found_before_the_work(
    tiny_config, tiny_data, tmp_path, override, match
):
    with pytest.raises(ConfigError, match=match):
        condense(
            tiny_data, tiny_config.with_overrides([override]), out=tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()


def test_an_artefact_that_could_not_be_read_is_refused_before_the_work(
    tiny_config, tiny_data, tmp_path, monkeypatch
):
    monkeypatch.setattr("condense_core.runs.run.MAX_FILE_BYTES", 2**20 + 100)
    with pytest.raises(ConfigError, match="the artefact would have"):
        condense(tiny_data, tiny_config, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["convnet", "mlp", "alexnet", "vgg11", "resnet18"])
def test_every_network_can_be_phi(tiny_config, tiny_data, name):
    from condense_core.runs.run import check_fit

    check_fit(tiny_data, tiny_config.with_overrides([f"network.name={name}"]))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("not enough memory: you tried to allocate 9 bytes"),
    ],
)
def test_running_out_of_memory_is_advised(error):
    with pytest.raises(RunError, match=r"set loop\.codes_per_step"), memory_advice():
        raise error


def test_the_allocator_of_this_machine_is_understood():
    with pytest.raises(RunError, match="out of memory"), memory_advice():
        torch.empty(2**50)


def test_other_errors_are_not_disguised():
    with pytest.raises(RuntimeError, match="shape") as caught, memory_advice():
        raise RuntimeError("shape mismatch")
    assert not isinstance(caught.value, RunError)


# Stopping and going on

MOMENTS = [
    ("condense_core.teacher.train_network", 1, False),
    ("condense_core.runs.run.RunDirectory.save", 1, True),
    ("condense_core.runs.preparation.pretrain", 1, False),
    ("condense_core.runs.run.RunDirectory.save", 2, True),
    ("condense_core.runs.run.condense_loop", 1, False),
    ("condense_core.monitor.gradient_norms", 1, False),
    ("condense_core.loop_state.LoopState.train_network", 1, False),
    ("condense_core.monitor.gradient_norms", 4, True),
    ("condense_core.loop_state.LoopState.train_network", 3, True),
    ("condense_core.loop_state.LoopState.initialise_network", 3, True),
    ("condense_core.loop_state.discriminator_loss", 3, False),
    ("condense_core.runs.directory.RunDirectory.save_sometimes", 3, True),
    ("condense_core.runs.directory.RunDirectory.save_sometimes", 4, True),
    ("condense_core.artefact.dataset.CondensedDataset.save", 1, False),
    ("condense_core.artefact.dataset.CondensedDataset.save", 1, True),
    ("condense_core.runs.run.write_samples_png", 1, False),
    ("condense_core.runs.directory.RunDirectory.finish", 1, False),
    ("condense_core.runs.directory.shutil.rmtree", 1, True),
    ("condense_core.runs.directory.shutil.rmtree", 2, False),
]


@pytest.fixture(scope="module")
def whole_run() -> dict:
    return {}


@pytest.mark.parametrize(("target", "call", "after"), MOMENTS)
def test_a_killed_run_ends_as_the_whole_one(
    tiny_config,
    tiny_data,
    tmp_path,
    saved_always,
    kill_at,
    whole_run,
    target,
    call,
    after,
):
    if not whole_run:
        condense(tiny_data, tiny_config, out=tmp_path / "whole", device="cpu")
        whole_run |= files(tmp_path / "whole")
    out = tmp_path / "run"
    killer = kill_at(target, call, after=after)
    with pytest.raises(Killed):
        condense(tiny_data, tiny_config, out=out, device="cpu")
    killer.undo()
    condense(tiny_data, tiny_config, out=out, device="cpu")
    assert files(out) == whole_run
    assert not (out / "checkpoint").exists()


def test_a_run_killed_again_and_again_ends_as_the_whole_one(
    tiny_config, tiny_data, tmp_path, saved_always, kill_at
):
    condense(tiny_data, tiny_config, out=tmp_path / "whole", device="cpu")
    out = tmp_path / "run"
    kills = 0
    while True:
        killer = kill_at("condense_core.loop_state.LoopState.train_network", 2)
        try:
            condense(tiny_data, tiny_config, out=out, device="cpu")
            break
        except Killed:
            kills += 1
        finally:
            killer.undo()
    assert kills == 3
    assert files(out) == files(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["format.kind=pixels"],
        ["format.embedding=online"],
        ["loop.classes_per_step=2"],
        ["optimiser.name=adam", "format.images_per_class=1"],
        ["optimiser.name=sgd", "loop.codes_per_step=1"],
        ["loss.soft_labels=true", "loss.adversarial_space=pixel"],
        ["format.codes=truncated", "loop.reuse_association=false"],
        ["pretrain.method=adversarial", "loss.classifier=auxiliary"],
        ["pretrain.method=variational", "format.code_map=per_class"],
        ["loss.gradient=1", "pretrain.targets=medoids"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_every_kind_of_run_resumes(
    tiny_config, tiny_data, tmp_path, saved_always, kill_at, overrides
):
    config = tiny_config.with_overrides(overrides)
    condense(tiny_data, config, out=tmp_path / "whole", device="cpu")
    killer = kill_at("condense_core.loop_state.LoopState.train_network", 4)
    with pytest.raises(Killed):
        condense(tiny_data, config, out=tmp_path / "run", device="cpu")
    killer.undo()
    condense(tiny_data, config, out=tmp_path / "run", device="cpu")
    assert files(tmp_path / "run") == files(tmp_path / "whole")


def test_a_resumed_run_repeats_nothing_that_was_saved(
    tiny_config, tiny_data, tmp_path, saved_always, kill_at, monkeypatch
):
    killer = kill_at("condense_core.loop_state.LoopState.train_network", 3)
    with pytest.raises(Killed):
        condense(tiny_data, tiny_config, out=tmp_path, device="cpu")
    killer.undo()

    def never(*_, **__):
        pytest.fail("this was done before")

    monkeypatch.setattr("condense_core.teacher.train_network", never)
    monkeypatch.setattr("condense_core.runs.preparation.pretrain", never)
    outers, original = [], loop_state.LoopState.train_network

    def spy(self, sampler, outer, k):
        outers.append(outer)
        return original(self, sampler, outer, k)

    monkeypatch.setattr(loop_state.LoopState, "train_network", spy)
    condense(tiny_data, tiny_config, out=tmp_path, device="cpu")
    assert outers == [2, 3]


def test_a_finished_run_is_read_not_made_again(
    tiny_config, tiny_data, tmp_path, monkeypatch
):
    first = condense(tiny_data, tiny_config, out=tmp_path, device="cpu")
    before = files(tmp_path)
    monkeypatch.setattr(
        "condense_core.runs.run._condense", lambda *_: pytest.fail("made again")
    )
    again = condense(tiny_data, tiny_config, out=tmp_path, device="cpu")
    assert again.to_bytes() == first.to_bytes()
    assert files(tmp_path) == before
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.parametrize("finished", [False, True])
def test_other_data_are_refused_and_do_no_harm(
    tiny_config, tiny_data, tmp_path, kill_at, finished
):
    changed = ImageData(
        images=tiny_data.images.clone(),
        labels=tiny_data.labels,
        classes=tiny_data.classes,
    )
    changed.images[7, 0, 0, 0] ^= 1
    if finished:
        condense(tiny_data, tiny_config, out=tmp_path, device="cpu")
    else:
        killer = kill_at("condense_core.loop_state.LoopState.train_network", 2)
        with pytest.raises(Killed):
            condense(tiny_data, tiny_config, out=tmp_path, device="cpu")
        killer.undo()
    with pytest.raises(RunError, match="other data"):
        condense(changed, tiny_config, out=tmp_path, device="cpu")
    made = condense(tiny_data, tiny_config, out=tmp_path, device="cpu")
    assert made.metadata["data"]["fingerprint"] == tiny_data.fingerprint()


def test_an_artefact_of_somebody_else_is_refused(
    tiny_config, tiny_data, tmp_path, make_condensed
):
    condense(tiny_data, tiny_config, out=tmp_path, device="cpu")
    make_condensed().save(tmp_path / "condensed.safetensors")
    with pytest.raises(RunError, match="other data"):
        condense(tiny_data, tiny_config, out=tmp_path, device="cpu")


# The same with real signals


@pytest.fixture
def command(tiny_config, npz_root, tmp_path):
    config = tiny_config.with_overrides(
        [
            "loop.network_updates=30",
            "loop.generator_updates=4",
            "evaluate.recipe=paper-300",
        ]
    )
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())

    def start(out, *, saving: bool = True) -> subprocess.Popen:
        code = (
            "import sys, condense_core.runs.directory as r\n"
            "r.CHECKPOINT_SECONDS = 0\n"
            "from condense_core.cli import main\n"
            "sys.exit(main())"
        )
        program = ["-c", code] if saving else ["-m", "condense_core"]
        return subprocess.Popen(
            [
                *[sys.executable, *program, "run", str(path)],
                *["--data-root", str(npz_root), "--out", str(out), "--device", "cpu"],
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def wait_for_lines(process: subprocess.Popen, path, count: int) -> None:
    deadline = time.monotonic() + 120
    while not path.exists() or len(path.read_bytes().splitlines()) < count:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "saving"), [(signal.SIGKILL, True), (signal.SIGINT, False)]
)
def test_a_process_that_got_a_signal_resumes(command, tmp_path, sent, saving):
    finish(command(tmp_path / "whole"))
    out = tmp_path / "run"
    for lines in (3, 9):
        process = command(out, saving=saving)
        wait_for_lines(process, out / "metrics.jsonl", lines)
        process.send_signal(sent)
        _, errors = process.communicate(timeout=60)
        if sent == signal.SIGINT:
            assert process.returncode == 1
            assert "the same command goes on" in errors
            assert "Traceback" not in errors
        else:
            assert process.returncode == -signal.SIGKILL
        assert (out / "checkpoint").is_dir()
        assert (out / "checkpoint" / "loop.pt").exists() is saving
    finish(command(out, saving=saving))
    for name in ("condensed.safetensors", "metrics.jsonl", "samples.png"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    reports = [
        json.loads((folder / "report.json").read_text())
        for folder in (out, tmp_path / "whole")
    ]
    assert reports[0]["accuracies"] == reports[1]["accuracies"]
    assert reports[0]["digest"] == reports[1]["digest"]
