import json
import os
import re

import pytest
import torch
from safetensors.torch import save_file

from condense_core import teacher
from condense_core.data import ImageData
from condense_core.errors import ArtefactError, CondenseError, RunError
from condense_core.runs import directory
from condense_core.runs.run import condense
from condense_core.seeding import make_generator
from condense_core.teacher import (
    build_teacher,
    check_teacher,
    load_teacher,
    needs_teacher,
    train_teacher_file,
)

CPU = torch.device("cpu")


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture
def config(tiny_config):
    return tiny_config.with_overrides(["teacher.steps=6", "loss.unrolled=0"])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "teacher.safetensors"


def train(path, data, config):
    return train_teacher_file(path, data, config, device=CPU, progress=False)


def test_a_run_with_the_file_is_the_run_that_trains_its_own(config, tiny_data, path):
    own = condense(tiny_data, config, device="cpu", progress=False)
    train(path, tiny_data, config)
    loaded = condense(
        tiny_data,
        config.with_overrides([f"teacher.path={path}"]),
        device="cpu",
        progress=False,
    )
    for name, tensor in own.tensors.items():
        assert torch.equal(tensor, loaded.tensors[name]), name


def test_the_file_gives_back_the_network(config, tiny_data, path):
    trained = train(path, tiny_data, config)
    loaded = load_teacher(path, tiny_data, config, device=CPU)
    images = torch.rand(4, *tiny_data.image_shape)
    assert torch.equal(trained(images), loaded(images))
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    fresh = build_teacher(tiny_data, config)
    assert not torch.equal(fresh(images), loaded(images))


@pytest.mark.parametrize(
    ("method", "weight", "needed"),
    [("variational", 1.0, True), ("variational", 0.0, False), ("none", 1.0, False)],
)
def test_features_of_a_decoder_need_a_teacher(config, method, weight, needed):
    config = config.with_overrides(
        [
            "format.embedding=one_hot",
            "pretrain.targets=centres",
            f"pretrain.method={method}",
            f"pretrain.feature_weight={weight}",
        ]
    )
    assert needs_teacher(config) is needed


@pytest.mark.parametrize(
    ("method", "needed"),
    [("reconstruction", True), ("adversarial", False), ("none", False)],
)
def test_medoids_need_a_teacher_where_they_are_the_start(config, method, needed):
    config = config.with_overrides(
        [
            "format.embedding=one_hot",
            "pretrain.targets=medoids",
            f"pretrain.method={method}",
        ]
    )
    assert needs_teacher(config) is needed


def test_images_of_64_px_get_four_blocks(config):
    images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    data = ImageData(images=images, labels=torch.tensor([0, 1]), classes=("a", "b"))
    assert len(build_teacher(data, config).blocks) == 4


@pytest.mark.parametrize("batch_size", [256, 8])  # one batch, or four an epoch
@pytest.mark.parametrize("at", [2, 3, 5])  # before, at and after the drop of the rate
def test_a_killed_training_goes_on_and_ends_the_same(
    config, tiny_data, tmp_path, monkeypatch, at, batch_size
):
    recipe = teacher.Recipe

    def small(name, **settings):
        return recipe(name, batch_size=batch_size, **settings)

    monkeypatch.setattr(teacher, "Recipe", small)
    monkeypatch.setattr(teacher, "CHECKPOINT_SECONDS", 0.0)
    expected = train(tmp_path / "a.safetensors", tiny_data, config)
    path, write, calls = tmp_path / "b.safetensors", teacher.atomic_write_bytes, []

    def killed(*args):
        write(*args)
        calls.append(args)
        if len(calls) == at:
            raise Killed

    with monkeypatch.context() as context:
        context.setattr(teacher, "atomic_write_bytes", killed)
        with pytest.raises(Killed):
            train(path, tiny_data, config)
    assert not path.exists()
    resumed = train(path, tiny_data, config)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert [p.name for p in sorted(tmp_path.iterdir())] == [
        "a.safetensors",
        "b.safetensors",
    ]


def test_the_teacher_of_a_run_resumes_in_its_middle(
    config, tiny_data, tmp_path, monkeypatch
):
    monkeypatch.setattr(directory, "CHECKPOINT_SECONDS", 0.0)
    expected = condense(tiny_data, config, device="cpu", progress=False)
    save, stages = directory.RunDirectory.save, []

    def killed(self, stage, state):
        save(self, stage, state)
        stages.append(stage)
        if len(stages) == 4:
            raise Killed

    with monkeypatch.context() as context:
        context.setattr(directory.RunDirectory, "save", killed)
        with pytest.raises(Killed):
            condense(tiny_data, config, out=tmp_path / "r", device="cpu")
    assert stages == ["teacher-training"] * 4
    resumed = condense(tiny_data, config, out=tmp_path / "r", device="cpu")
    for name, tensor in expected.tensors.items():
        assert torch.equal(tensor, resumed.tensors[name]), name


def test_the_same_call_again_loads_the_file(config, tiny_data, path, monkeypatch):
    train(path, tiny_data, config)
    before = path.read_bytes()
    monkeypatch.setattr(teacher, "train_network", None)  # would fail if called
    train(path, tiny_data, config)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("override", "part"),
    [("teacher.steps=7", "another steps 6"), ("seed=1", "another seed 0")],
)
def test_a_file_of_other_settings_is_not_overwritten(
    config, tiny_data, path, override, part
):
    train(path, tiny_data, config)
    before = path.read_bytes()
    with pytest.raises(RunError, match=part):
        train(path, tiny_data, config.with_overrides([override]))
    assert path.read_bytes() == before


# A file that does not fit


def other_data(data: ImageData, kind: str) -> ImageData:
    images, labels, classes = data.images, data.labels, data.classes
    if kind == "shape":
        images = torch.zeros(len(data), 1, 12, 12, dtype=torch.uint8)
    elif kind == "classes":
        classes = ("left", "middel", "right")
    elif kind == "order":
        classes = ("middle", "left", "right")
    elif kind == "images":
        images = 255 - images
    return ImageData(images=images, labels=labels, classes=classes, name="other")


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("shape", "is for images of shape (1, 8, 8), not (1, 12, 12)"),
        ("classes", "class 'middel' is not among them (did you mean 'middle'?)"),
        ("order", "their order or number differs"),
        ("images", "their fingerprint differs"),
    ],
)
def test_a_teacher_of_other_data_is_refused_before_any_work(
    config, tiny_data, path, monkeypatch, kind, part
):
    train(path, tiny_data, config)
    monkeypatch.setattr("condense_core.runs.run._condense", None)
    with pytest.raises(CondenseError, match=re.escape(part)):
        condense(
            other_data(tiny_data, kind),
            config.with_overrides([f"teacher.path={path}"]),
            device="cpu",
        )


def test_a_teacher_of_another_width_names_the_setting(config, tiny_data, path):
    train(path, tiny_data, config)
    wider = config.with_overrides(["teacher.width=5"])
    with pytest.raises(CondenseError, match=r"teacher\.width=4"):
        check_teacher(path, tiny_data, wider)


def test_a_file_that_is_no_teacher_is_refused(
    config, tiny_data, path, make_condensed, tmp_path
):
    with pytest.raises(ArtefactError, match="cannot read teacher"):
        check_teacher(tmp_path / "absent", tiny_data, config)
    make_condensed().save(path)
    with pytest.raises(ArtefactError, match="is not a teacher file"):
        check_teacher(path, tiny_data, config)
    train(tmp_path / "good", tiny_data, config)
    os.truncate(tmp_path / "good", (tmp_path / "good").stat().st_size - 5)
    with pytest.raises(ArtefactError):
        load_teacher(tmp_path / "good", tiny_data, config, device=CPU)


@pytest.mark.parametrize("key", ["image_shape", "classes", "fingerprint", "width"])
def test_a_file_that_does_not_say_what_it_fits_is_refused(config, tiny_data, path, key):
    facts = {
        "format_version": teacher.FORMAT_VERSION,
        "image_shape": list(tiny_data.image_shape),
        "classes": list(tiny_data.classes),
        "fingerprint": tiny_data.fingerprint(),
        "width": 4,
    }
    del facts[key]
    save_file({"a": torch.zeros(1)}, path, {teacher.METADATA_KEY: json.dumps(facts)})
    with pytest.raises(ArtefactError, match=f"lacks '{key}'"):
        check_teacher(path, tiny_data, config)


def test_a_damaged_checkpoint_is_named(config, tiny_data, path):
    path.with_name(f".{path.name}.partial").write_bytes(b"x")
    with pytest.raises(RunError, match="delete it to start anew"):
        train(path, tiny_data, config)


# Class means of a part


def test_class_means_of_all_images_at_most_are_those_of_all(config, tiny_data):
    whole = condense(tiny_data, config, device="cpu", progress=False)
    most = condense(
        tiny_data,
        config.with_overrides(["teacher.mean_images=10"]),
        device="cpu",
        progress=False,
    )
    few = condense(
        tiny_data,
        config.with_overrides(["teacher.mean_images=2"]),
        device="cpu",
        progress=False,
    )
    name = "class_embedding"
    assert torch.equal(whole.tensors[name], most.tensors[name])
    assert not torch.equal(whole.tensors[name], few.tensors[name])


def test_thinning_keeps_some_images_of_each_class(tiny_data):
    thin = tiny_data.thin(4, make_generator(0, "x"))
    assert thin.counts.tolist() == [4, 4, 4]
    rows = {tuple(row) for row in tiny_data.images.flatten(1).tolist()}
    assert all(tuple(row) in rows for row in thin.images.flatten(1).tolist())
    again = tiny_data.thin(4, make_generator(0, "x"))
    assert torch.equal(thin.images, again.images)
    assert len(tiny_data.thin(99, make_generator(0, "x"))) == len(tiny_data)
