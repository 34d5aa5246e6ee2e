"""The federated benchmark: every row on digits, its resuming, its report."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("flwr")
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import federated
import one_client
from federated_lib.images import (
    choose_files,
    choose_herded,
    choose_random,
    condensed_of,
)
from federated_lib.local_training import run_at_equal_bytes, train_locally
from federated_lib.one_client_report import one_client_table
from federated_lib.report import plot, read_lines, table
from federated_lib.rows import ROWS
from federated_lib.setting import Cell, Setting, load_federation

from condense_core.networks import build_network
from condense_core.seeding import make_generator
from flower_strategy.settings import ServerSettings

QUICK = (
    "pretrain.steps=1 loop.restarts=1 loop.network_updates=1 loop.generator_updates=1"
)
SETTING = Setting(train_steps=2, overrides=QUICK)


@pytest.fixture(scope="module")
def federation():
    cell = Cell(
        dataset="digits",
        partition="dirichlet-0.5",
        row="ours",
        upload_bytes=8_000,
        seed=0,
    )
    return load_federation(cell, SETTING, None)


def run(monkeypatch, out, *more):
    arguments = [
        *("--dataset", "digits", "--partitions", "dirichlet-0.5", "--seeds", "1"),
        *("--train-steps", "2", "--rounds", "2", "--upload-bytes", "8000"),
        *("--overrides", QUICK, "--out", str(out), *more),
    ]
    monkeypatch.setattr(sys, "argv", ["federated.py", *arguments])
    federated.main()


CHEAP = "fedavg,real-random,ours,ours-missing,ours-rounds,centralised"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("federated")
    with pytest.MonkeyPatch.context() as patch:
        run(patch, folder, "--rows", CHEAP)
    return folder


def read(results, row, budget=8000):
    name = f"digits_dirichlet-0.5_{row}_{budget}_seed0.json"
    return json.loads((results / name).read_text())


def test_every_cell_has_a_file(results):
    assert len(list(results.glob("*.json"))) == 6


def test_model_rows_count_every_message(results):
    first, second = read(results, "fedavg", 0)["points"]
    network = build_network(
        "convnet", image_shape=(1, 8, 8), num_classes=10, width=32, seed=0
    )
    weights = sum(p.numel() * 4 for p in network.parameters())
    for sent in (first["bytes_up"], first["bytes_down"]):
        assert 10 * weights < sent < 10 * weights * 1.05
    assert second["bytes_up"] == 2 * first["bytes_up"]


def test_bounded_rows_keep_their_bytes(results):
    for row in ("real-random", "ours"):
        (point,) = read(results, row)["points"]
        assert point["bytes_up"] <= 10 * 8000
    missing = read(results, "ours-missing")["points"][0]
    assert missing["bytes_up"] < read(results, "ours")["points"][0]["bytes_up"]


def test_rounds_add_up(results):
    first, second = read(results, "ours-rounds")["points"]
    assert second["bytes_up"] == 2 * first["bytes_up"]
    assert second["bytes_down"] > first["bytes_down"]
    assert first["accuracy"] == read(results, "ours")["points"][0]["accuracy"]


def test_what_is_there_is_not_computed_again(results, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in results.glob("*.json")}
    run(monkeypatch, results, "--rows", CHEAP)
    assert {p: p.stat().st_mtime_ns for p in results.glob("*.json")} == before
    with pytest.raises(SystemExit, match="choose another --out"):
        run(monkeypatch, results, "--rows", "ours", "--train-steps", "3")
    with pytest.raises(SystemExit, match="ends after round 2, not 3"):
        run(monkeypatch, results, "--rows", "fedavg", "--rounds", "3")
    run(monkeypatch, results, "--rows", "fedavg,ours", "--rounds", "1")


def test_an_unknown_row_is_refused(results, monkeypatch):
    with pytest.raises(SystemExit, match="unknown row 'our'"):
        run(monkeypatch, results, "--rows", "our")


def test_report(results, tmp_path):
    lines = read_lines(results)
    text = table(lines)
    assert "| FedAvg | 2 |" in text
    assert "hard labels" not in text
    assert "| **ours**, one shot | 1 | 8,000 |" in text
    plot(lines, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
    with pytest.raises(SystemExit, match="no results"):
        read_lines(tmp_path)


def test_a_row_from_before_labels_were_smoothed_says_so(results, tmp_path):
    for row, budget in (("ours", 8000), ("fedavg", 0)):
        old = read(results, row, budget)
        del old["server"]
        (tmp_path / f"{row}.json").write_text(json.dumps(old))
    text = table(read_lines(tmp_path))
    assert "| **ours**, one shot, hard labels | 1 |" in text
    assert "| FedAvg | 2 |" in text


@pytest.mark.parametrize(
    ("upload_bytes", "clients", "rounds"), [(1_000, 1, 1), (60_000, 3, 1), (4e5, 10, 2)]
)
def test_models_for_equal_bytes(federation, upload_bytes, clients, rounds):
    cell = Cell(
        dataset="digits",
        partition="dirichlet-0.5",
        row="fedavg-equal-bytes",
        upload_bytes=int(upload_bytes),
        seed=0,
    )
    outcome = run_at_equal_bytes(cell, replace(SETTING, one_shot_epochs=1), federation)
    last = outcome.points[-1]
    assert last.rounds == rounds
    assert len(outcome.client_seconds) == clients
    if clients > 1:
        assert last.bytes_up + last.bytes_down <= 10 * upload_bytes


def test_the_list_names_every_row(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["federated.py", "--list"])
    federated.main()
    assert len(capsys.readouterr().out.splitlines()) == len(ROWS)


@pytest.mark.parametrize("choose", [choose_random, choose_herded])
def test_images_are_the_clients_own_within_the_bytes(federation, choose, monkeypatch):
    monkeypatch.setattr("federated_lib.images.HERDING_STEPS", 1)
    share = federation.shares[0]
    images, labels, size = choose(share, 2_000, 0)
    assert 0 < size == images.nbytes <= 2_000
    own = {
        (tuple(image.flatten().tolist()), int(label))
        for image, label in zip(share.images, share.labels, strict=True)
    }
    for image, label in zip(images, labels, strict=True):
        assert (tuple(image.flatten().tolist()), int(label)) in own


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_as_many_images_as_their_files_have_room_for(federation, kind):
    share = federation.shares[0]
    images, labels, size = choose_files(share, 4_000, 0, kind=kind)
    assert 0 < size <= 4_000
    assert len(images) == len(labels) < len(share)
    order = torch.randperm(len(share), generator=make_generator(0, "random"))
    chosen = order[: len(images)]
    assert labels.bincount(minlength=10).tolist() == (
        share.labels[chosen].bincount(minlength=10).tolist()
    )
    if kind == "png":  # keeps every bit: the very images, class by class
        by_class = chosen[share.labels[chosen].argsort(stable=True)]
        assert torch.equal(images, share.images[by_class])
    everything, _, least = choose_files(share, 10**6, 0, kind=kind)
    assert len(everything) == len(share)
    assert size < least


def test_condensed_pixels_keep_the_bytes(federation, monkeypatch):
    monkeypatch.setattr("federated_lib.images.PIXEL_UPDATES", 40)
    images, labels, size = condensed_of("digits")(federation.shares[0], 1_500, 0)
    assert images.dtype == torch.uint8
    assert 0 < size == images.nbytes <= 1_500
    assert set(labels.tolist()) <= set(federation.shares[0].labels.tolist())


def test_a_strong_proximal_term_keeps_a_client_near(federation):
    def moved(mu):
        network = build_network(
            "convnet", image_shape=(1, 8, 8), num_classes=10, width=4, seed=0
        )
        before = [p.detach().clone() for p in network.parameters()]
        train_locally(
            network,
            federation.shares[0],
            federation.train.statistics(),
            SETTING,
            epochs=2,
            seed=0,
            proximal_mu=mu,
        )
        pairs = zip(network.parameters(), before, strict=True)
        return sum(float((p.detach() - b).square().sum()) for p, b in pairs)

    assert moved(10.0) < 0.5 * moved(0.0)


def test_one_client_is_measured_row_by_row(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(one_client, "HELD_OUT", 100)
    monkeypatch.setattr(
        one_client,
        "ServerSettings",
        lambda **settings: ServerSettings(
            train_steps=2, synthetic_images=200, **settings
        ),
    )
    line = [
        "one_client.py",
        "digits",
        "--rows",
        "images,gaussians-8",
        "--networks",
        "2",
    ]
    line += ["--overrides", QUICK, "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", line)
    one_client.main()
    printed = capsys.readouterr().out
    images, ours = (
        json.loads((tmp_path / f"digits_{row}_seed0.json").read_text())
        for row in ("images", "gaussians-8")
    )
    assert images["client_images"] + images["held_out_images"] == 1437
    assert images["bytes"] == images["client_images"] * 64
    assert ours["overrides"].startswith("format.code_components=8 pretrain.steps=1")
    assert len(ours["accuracies"]) == 2
    assert ours["bytes"] > 10_000
    one_client.main()  # made already: only shown
    assert capsys.readouterr().out == printed
    assert images["model"]["low_pass"] == 0.0 < ours["model"]["low_pass"]
    for more in (["--networks", "3"], ["--images", "50"]):
        monkeypatch.setattr(sys, "argv", [*line, *more])
        with pytest.raises(SystemExit, match="choose another --out"):
            one_client.main()
    text = one_client_table(tmp_path)
    assert "### digits, one client" in text
    assert f"| {images['bytes']:,} | – | 2 |" in text
    assert f"`{ours['overrides']}`" in text
    with pytest.raises(SystemExit, match="no results"):
        one_client_table(tmp_path / "elsewhere")
