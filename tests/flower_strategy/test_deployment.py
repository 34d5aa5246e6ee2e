"""The example app under Flower's deployment engine, on loopback."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from condense_core.data.sources import load_source
from tests.flower_strategy.test_simulation import APP, SHORT, script

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("bash"), reason="needs bash"),
]

CRASHING = """
import os
from flower_strategy.client_app import app as honest
from flwr.clientapp import ClientApp

app = ClientApp()

@app.train("condense")
def condense(message, context):
    if context.node_config["partition-id"] == 1:
        os._exit(3)
    return honest(message, context)
"""


def last_round(out):
    return json.loads((out / "result.json").read_text())["rounds"][-1]


def test_three_nodes_run_two_rounds(tmp_path):
    out = tmp_path / "out"
    settings = [*SHORT, "num-server-rounds=2", "evaluate-clients=true"]
    run = script("deploy.sh", *settings, out=out)
    assert run.returncode == 0, run.stdout
    report = last_round(out)
    assert len(report["accepted"]) == 3
    assert report["client_accuracy"] is not None
    # The script failed if Flower had measured other bytes.
    assert "measured by Flower" in run.stdout


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")
@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="needs ssh-keygen")
def test_only_registered_nodes_join_under_tls(tmp_path):
    out = tmp_path / "out"
    run = script("deploy.sh", "--tls", *SHORT, out=out)
    assert run.returncode == 0, run.stdout
    assert "a node that is not registered was refused" in run.stdout
    assert len(last_round(out)["accepted"]) == 3


def test_sites_read_their_own_folders(tmp_path):
    own = {"north": {0, 1, 2, 3}, "south": {3, 4, 5, 6}, "west": {6, 7, 8, 9}}
    train = load_source("digits", split="train", data_root=None)
    for number, label in enumerate(train.labels.tolist()):
        for site in (name for name, classes in own.items() if label in classes):
            folder = tmp_path / "sites" / site / "train" / train.classes[label]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = train.images[number, 0].numpy().astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    out = tmp_path / "out"
    settings = ["--sites", str(tmp_path / "sites"), *SHORT, "channels=1"]
    run = script("deploy.sh", *settings, out=out)
    assert run.returncode == 0, run.stdout
    assert last_round(out)["accepted"] == sorted(own)
    clients = json.loads((out / "round-001/round.json").read_text())["clients"]
    assert {site: set(c["class_ids"]) for site, c in clients.items()} == own


def test_a_client_that_crashes_does_not_stop_the_round(tmp_path):
    app = tmp_path / "crashing-app"
    app.mkdir()
    (app / "crashing.py").write_text(CRASHING)
    text = (APP / "pyproject.toml").read_text()
    text = text.replace("flower_strategy.client_app:app", "crashing:app")
    (app / "pyproject.toml").write_text(text.replace("README.md", "crashing.py"))
    out = tmp_path / "out"
    run = script(
        "deploy.sh",
        *SHORT,
        "round-seconds=90",
        out=out,
        APP=str(app),
        SKIP_TRAFFIC="1",
    )
    assert run.returncode == 0, run.stdout
    report = last_round(out)
    assert report["accepted"] == ["partition-0", "partition-2"]
    # Flower may notice it before the deadline, and says so.
    assert report["missing"] + len(report["rejected"]) == 1
