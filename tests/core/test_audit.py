import json
import re
from dataclasses import FrozenInstanceError, replace
from math import sqrt

import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor

from condense_core import audit as audit_module
from condense_core.artefact import CondensedDataset
from condense_core.audit import NO_PROOF, audit
from condense_core.cli import main
from condense_core.data import ImageData, to_bytes, to_unit
from condense_core.errors import ConfigError, DataError, RunError
from condense_core.roc import auc_interval, roc_auc, tpr_at_one_percent_fpr
from condense_core.seeding import make_generator
from condense_core.synthesiser import PixelSynthesiser, SynthesiserSpec

CLASSES = ("left", "middle", "right")
PER_CLASS = 40


def draw_images(seed: int, *counts: int) -> ImageData:
    """Images of one distribution: three classes, each a bright bar plus noise."""
    draw = make_generator(seed, "audit-test")
    labels = torch.arange(3).repeat_interleave(torch.tensor(counts))
    images = torch.randint(0, 60, (len(labels), 1, 8, 8), generator=draw)
    for label in range(3):
        images[labels == label, :, :, 2 * label : 2 * label + 2] += 180
    return ImageData(
        images=images.to(torch.uint8), labels=labels, classes=CLASSES, name="bars"
    )


def draw_noise(seed: int, count: int) -> Tensor:
    draw = make_generator(seed, "audit-noise")
    return torch.randint(0, 256, (count, 1, 8, 8), generator=draw).to(torch.uint8)


def made_of(data: ImageData) -> CondensedDataset:
    """The worst artefact: its images are the data themselves, as pixels."""
    per_class = len(data) // data.num_classes
    synthesiser = PixelSynthesiser(
        SynthesiserSpec(
            kind="pixels",
            image_shape=data.image_shape,
            num_classes=data.num_classes,
            images_per_class=per_class,
        )
    )
    synthesiser.set_images(to_unit(data.images).view(3, per_class, *data.image_shape))
    return CondensedDataset.from_synthesiser(
        synthesiser,
        classes=data.classes,
        statistics=data.statistics(),
        data={"fingerprint": data.fingerprint()},
    )


@pytest.fixture
def members() -> ImageData:
    return draw_images(1, *[PER_CLASS] * 3)


@pytest.fixture
def non_members() -> ImageData:
    return draw_images(2, *[PER_CLASS] * 3)


def by_name(report):
    return {attack.name: attack for attack in report.attacks}


# What the audit must and must not find


def test_an_artefact_made_of_its_members_is_found(members, non_members, device):
    report = audit(made_of(members), members, non_members, device=device, max_steps=1)
    found = by_name(report)
    assert list(found) == ["pixel distance", "feature distance", "loss"]
    for name in ("pixel distance", "feature distance"):
        assert found[name].auc > 0.99
        assert found[name].auc_low > 0.98
        assert found[name].tpr_at_1_percent_fpr > 0.95
    assert report.members == 3 * PER_CLASS
    assert (report.fixed_images, report.fresh_images) == (3 * PER_CLASS, 0)
    assert report.members_match is True
    assert report.warning() is None
    assert report.device == str(device)


def test_a_network_that_learnt_members_by_heart_is_found(members, non_members):
    # Bars are learnt without looking at any image's noise; noise alone is not.
    members, non_members = (
        replace(data, images=draw_noise(seed, len(data)))
        for seed, data in enumerate((members, non_members))
    )
    found = by_name(audit(made_of(members), members, non_members))
    assert found["loss"].auc_low > 0.75


def test_one_copied_member_in_ten_is_found_where_few_are_accused(members):
    kept = torch.arange(3 * PER_CLASS).view(3, -1)[:, :4].flatten()
    others = draw_images(2, 100, 100, 100)
    condensed = made_of(members.subset(kept))
    found = by_name(audit(condensed, members, others, max_steps=1))
    for name in ("pixel distance", "feature distance"):
        assert found[name].tpr_at_1_percent_fpr >= 0.1
        assert found[name].auc < 0.7


@pytest.mark.parametrize("kind", ["generator", "pixels"])
@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_found_in_an_unrelated_artefact(kind, seed, make_condensed):
    size = 150
    members, others = (draw_images(10 * seed + i, *[size] * 3) for i in (1, 2))
    condensed = make_condensed(kind=kind, seed=seed)
    report = audit(condensed, members, others, seed=seed, max_steps=30)
    noise = sqrt((2 * 3 * size + 1) / (12 * (3 * size) ** 2))  # of U, by chance alone
    for attack in report.attacks:
        assert abs(attack.auc - 0.5) < 3.5 * noise
        assert attack.auc_low < attack.auc < attack.auc_high
        assert attack.tpr_at_1_percent_fpr < 0.06


def test_unequal_classes_are_no_membership(make_condensed):
    # Class 0 is nearer to its synthetic images than the others; it must not matter
    # that it is frequent among the members.
    members, others = draw_images(1, 300, 60, 60), draw_images(2, 60, 60, 300)
    near = made_of(draw_images(3, 1, 1, 1))
    far = near.images()[0].clone()
    far[1:] = 1 - far[1:]
    synthesiser = PixelSynthesiser(near.spec)
    synthesiser.set_images(far.view(3, 1, 1, 8, 8))
    condensed = CondensedDataset.from_synthesiser(
        synthesiser, classes=CLASSES, statistics=near.statistics
    )
    report = audit(condensed, members, others, max_steps=1)
    assert report.members == 3 * 60
    for attack in report.attacks:
        assert abs(attack.auc - 0.5) < 0.11
        assert attack.auc_low < 0.5 < attack.auc_high


def test_fresh_images_count_as_synthetic(make_condensed, members, non_members):
    condensed = make_condensed()
    report = audit(condensed, members, non_members, fresh_per_class=100, max_steps=1)
    assert (report.fixed_images, report.fresh_images) == (6, 300)
    assert report.members_match is None
    assert "does not say" in report.warning()


def test_a_member_that_only_a_fresh_code_gives_away_is_found(make_condensed):
    condensed = make_condensed()
    draw = make_generator(0, "audit", "fresh")
    labels = torch.arange(3).repeat_interleave(20).tolist()
    made, own = condensed.sample(60, classes=labels, fresh=True, generator=draw)
    leaked = ImageData(images=to_bytes(made), labels=own, classes=CLASSES)
    noise = torch.randint(-9, 10, made.shape, generator=make_generator(0, "noise"))
    near = (leaked.images + noise).clamp(0, 255).to(torch.uint8)
    with_fresh, without = (
        by_name(
            audit(
                condensed,
                leaked,
                replace(leaked, images=near),
                fresh_per_class=count,
                max_steps=1,
            )
        )["pixel distance"].auc
        for count in (20, 0)
    )
    assert with_fresh > 0.99
    assert without < 0.9


# What it promises


def test_a_report_depends_on_seed_alone(
    make_condensed, members, non_members, untouched_global_rng
):
    condensed = make_condensed()
    options = {"limit": 60, "max_steps": 2, "device": "cpu"}
    first, again, other = (
        audit(condensed, members, non_members, seed=seed, **options).attacks
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_a_limit_holds_for_each_side_and_class(make_condensed, members, non_members):
    report = audit(make_condensed(), members, non_members, limit=31, max_steps=1)
    assert report.members == 30
    few = draw_images(3, 40, 2, 0)  # a class may be missing on one side
    report = audit(make_condensed(), members, few, limit=31, max_steps=1)
    assert report.members == 10 + 2


def test_a_report_is_frozen_and_json(make_condensed, members, non_members):
    report = audit(make_condensed(), members, non_members, max_steps=1)
    with pytest.raises(FrozenInstanceError):
        report.seed = 1
    content = report.to_dict()
    assert json.loads(json.dumps(content)) == content
    assert [attack["name"] for attack in content["attacks"]] == list(by_name(report))
    lines = report.table().splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1


def test_other_images_than_the_condensed_ones_are_noticed(members, non_members):
    report = audit(made_of(members), non_members, members, max_steps=1)
    assert report.members_match is False
    assert "fingerprint differs" in report.warning()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"images": torch.zeros(3, 1, 8, 9, dtype=torch.uint8)}, r"\(1, 8, 9\)"),
        ({"classes": (*CLASSES, "up")}, "4 classes, the artefact 3"),
        ({"classes": ("left", "right", "middle")}, "class 1 is 'right'"),
    ],
)
@pytest.mark.parametrize("side", ["members", "non-members"])
def test_images_that_do_not_fit_are_refused_at_once(
    make_condensed, monkeypatch, change, match, side
):
    fits = draw_images(1, 1, 1, 1)
    wrong = replace(fits, **change)
    monkeypatch.setattr(audit_module, "train_network", None)
    monkeypatch.setattr(CondensedDataset, "images", None)
    pair = (wrong, fits) if side == "members" else (fits, wrong)
    with pytest.raises(DataError, match=match) as refused:
        audit(make_condensed(), *pair)
    assert re.search(rf"(^|among ){side} of bars", str(refused.value))


def test_sides_without_a_class_in_common_are_refused(make_condensed):
    with pytest.raises(DataError, match="no class has images among both"):
        audit(make_condensed(), draw_images(1, 5, 0, 0), draw_images(2, 0, 5, 5))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"limit": 2}, "limit is 2: give at least 3"),
        ({"fresh_per_class": -1}, "fresh_per_class is -1: give at least 0"),
        ({"max_steps": 0}, "max_steps is 0: give at least 1"),
        ({"device": "quantum"}, "unknown device"),
    ],
)
def test_options_out_of_range_are_refused(
    make_condensed, members, non_members, options, match
):
    with pytest.raises(ConfigError, match=match):
        audit(make_condensed(), members, non_members, **options)


def test_a_network_that_diverged_is_no_result(
    make_condensed, members, non_members, monkeypatch
):
    def diverge(network, *_, **__):
        with torch.no_grad():
            network.classifier.weight.fill_(torch.nan)

    monkeypatch.setattr(audit_module, "train_network", diverge)
    with pytest.raises(RunError, match="'loss' are not finite"):
        audit(make_condensed(), members, non_members)


# Statistics


def scores(seed: int, *, tied: bool) -> tuple[Tensor, Tensor]:
    draw = make_generator(seed, "scores")
    ours = torch.randn(230, generator=draw) + 0.4
    theirs = torch.randn(310, generator=draw)
    return (ours.round(), theirs.round()) if tied else (ours, theirs)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_auc_and_tpr_are_those_of_scikit_learn(seed, tied):
    ours, theirs = scores(seed, tied=tied)
    truth = torch.cat([torch.ones(len(ours)), torch.zeros(len(theirs))]).numpy()
    both = torch.cat([ours, theirs]).numpy()
    assert roc_auc(ours, theirs) == pytest.approx(roc_auc_score(truth, both), abs=1e-12)
    false, true, _ = roc_curve(truth, both, drop_intermediate=False)
    expected = true[false <= 0.01].max()
    assert tpr_at_one_percent_fpr(ours, theirs) == pytest.approx(expected)


def test_few_non_members_allow_no_mistake():
    ours, theirs = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0.0, 2.0])
    assert tpr_at_one_percent_fpr(ours, theirs) == 0.5
    assert tpr_at_one_percent_fpr(theirs, ours) == 0.0


def test_the_interval_is_that_of_a_literal_bootstrap():
    ours, theirs = scores(0, tied=True)
    draw = make_generator(1, "bootstrap")
    found = []
    for _ in range(1000):
        pick = [
            x[torch.randint(len(x), (len(x),), generator=draw)] for x in (ours, theirs)
        ]
        found.append(roc_auc(*pick))
    literal = torch.tensor(found).quantile(torch.tensor([0.025, 0.975])).tolist()
    draw = make_generator(0, "bootstrap")
    found = auc_interval(ours, theirs, generator=draw)
    assert found == pytest.approx(literal, abs=0.01)


def test_the_interval_covers_the_truth_nineteen_times_in_twenty(monkeypatch):
    monkeypatch.setattr("condense_core.roc.RESAMPLES", 200)
    covered = 0
    for seed in range(200):
        draw = make_generator(seed, "cover")
        ours, theirs = (torch.randn(100, generator=draw) for _ in range(2))
        low, high = auc_interval(ours, theirs, generator=draw)
        covered += low <= 0.5 <= high
    assert 180 <= covered <= 198


def test_a_bootstrap_in_chunks_is_one_as_well(monkeypatch):
    ours, theirs = scores(0, tied=False)
    whole = auc_interval(ours, theirs, generator=make_generator(0, "chunks"))
    monkeypatch.setattr("condense_core.roc._CELLS", 10_000)
    parts = auc_interval(ours, theirs, generator=make_generator(0, "chunks"))
    assert parts == pytest.approx(whole, abs=0.01)


# The command


@pytest.fixture
def line(make_condensed, npz_root, tmp_path):
    path = tmp_path / "a.safetensors"
    make_condensed().save(path)
    options = ["--dataset", "npz", "--data-root", str(npz_root), "--device", "cpu"]
    return ["audit", str(path), *options]


def test_the_command_prints_a_table_and_a_caveat(line, capsys):
    assert main(line) == 0
    out, err = capsys.readouterr()
    head, *table, caveat = out.splitlines()
    assert head.endswith("30 training images of npz against as many test images")
    assert [row.split("  ")[0] for row in table[1:]] == [
        *("pixel distance", "feature distance", "loss")
    ]
    assert caveat == NO_PROOF
    assert "no proof of privacy" in caveat
    assert err.startswith("the artefact does not say")


def test_the_command_writes_json(line, capsys, tmp_path):
    line += ["--limit", "15", "--seed", "3"]
    assert main([*line, "--json", "-"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert (report["members"], report["seed"]) == (15, 3)
    assert NO_PROOF in err
    target = tmp_path / "report.json"
    assert main([*line, "--json", str(target)]) == 0
    assert NO_PROOF in capsys.readouterr().out
    assert json.loads(target.read_text())["attacks"] == report["attacks"]


def test_the_help_says_when_the_answer_means_something(capsys):
    with pytest.raises(SystemExit):
        main(["audit", "--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert "means something only for the data set the artefact was condensed" in words


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--limit", "2"], "limit is 2: give at least 3"),
        (["--dataset", "digits"], "class"),
        (["--device", "quantum"], "unknown device"),
        (["--json", "absent/report.json"], "folder does not exist"),
    ],
)
def test_a_bad_line_is_code_2_and_one_line(line, capsys, options, match):
    assert main([*line, *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert match in err
    assert err.count("\n") == 1
