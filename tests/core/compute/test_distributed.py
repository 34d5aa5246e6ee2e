"""Runs of several processes on the CPU (gloo) against the run of one."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from condense_core.cli import condensing, main
from condense_core.compute import distributed
from condense_core.compute.distributed import (
    ALONE,
    Apart,
    Ranks,
    check_ranks,
    own_device,
    process_group,
    shared_norms,
)
from condense_core.compute.parts import Part
from condense_core.errors import ConfigError, RunError
from condense_core.runs.directory import RunDirectory
from condense_core.runs.run import condense
from tests.core.compute import distributed_worker

ROOT = Path(__file__).parents[3]

# What couples the classes of a step, one thing at a time, beside the five losses.
CASES = {
    "unrolled": [],
    "students": ["unrolled.normalise=true", "unrolled.at_once=2"],
    "adam": ["optimiser.name=adam", "loss.adversarial=1"],
    "sgd": ["optimiser.name=sgd", "optimiser.generator_lr=0.1"],
    "pixels": ["format.kind=pixels", "loss.adversarial_space=pixel"],
    "online": ["format.embedding=online", "loss.soft_labels=true"],
    "gradient": ["loss.gradient=1", "loss.unrolled=0", "loss.classifier=auxiliary"],
    "subset": ["loop.classes_per_step=2", "loop.codes_per_step=1"],
    "resampled": ["loop.reuse_association=false", "evaluate.probe_every=5"],
    "resumed": [],  # two processes go on where one stopped
}
# Of the numbers of a run in fp32 after twelve updates; sums in another order.
RELATIVE = 1e-3
ABSOLUTE = 1e-5


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def start_workers(job: dict, path: Path) -> list[subprocess.Popen]:
    path.write_text(json.dumps(job))
    worker = Path(distributed_worker.__file__)
    return [
        subprocess.Popen(
            [sys.executable, str(worker), str(path), str(rank)],
            env=environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(job["world"])
    ]


class StoppedError(Exception):
    pass


def condense_half(config, data, out) -> None:
    def save_and_stop(self, stage, state):
        self.save(stage, state())
        if stage == "loop" and state()["outer"] == 3:
            raise StoppedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunDirectory, "save_sometimes", save_and_stop)
        with pytest.raises(StoppedError):
            condense(data, config, out=out, device="cpu", progress=False)


@pytest.fixture(scope="module")
def made_by(tmp_path_factory):
    """Folders of all cases as one process and as two made them."""
    folders: dict[int, Path] = {}

    def make(config, data) -> dict[int, Path]:
        # Other processes know the published recipes alone.
        config = config.with_overrides(["evaluate.recipe=paper-300"])
        if folders:
            return folders
        root = tmp_path_factory.mktemp("ranks")
        torch.save({"images": data.images, "labels": data.labels}, root / "data.pt")
        cases = {k: config.with_overrides(v).to_dict() for k, v in CASES.items()}
        for world in (1, 2):
            folders[world] = root / str(world)
            folders[world].mkdir()
            job = {
                "data": str(root / "data.pt"),
                "classes": data.classes,
                "cases": cases,
                "out": str(folders[world]),
                "world": world,
                "rendezvous": str(root / "rendezvous"),
            }
            if world == 1:
                distributed_worker.condense_cases(job, ALONE)
                continue
            condense_half(config, data, folders[world] / "resumed")
            for process in start_workers(job, root / "job.json"):
                _, errors = process.communicate(timeout=300)
                assert process.returncode == 0, errors
        return folders

    return make


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_make_what_one_makes(made_by, tiny_config, tiny_data, name):
    folders = made_by(tiny_config, tiny_data)
    alone, shared = (
        load_file(folders[world] / name / "condensed.safetensors") for world in (1, 2)
    )
    assert alone.keys() == shared.keys()
    for key, expected in alone.items():
        torch.testing.assert_close(
            shared[key], expected, rtol=RELATIVE, atol=ABSOLUTE, msg=key
        )
    lines = [
        [
            json.loads(line)
            for line in (folders[world] / name / "metrics.jsonl").open()
            if "probe" not in line  # an accuracy on 30 images moves in steps of 3 %
        ]
        for world in (1, 2)
    ]
    for one, two in zip(*lines, strict=True):
        assert one == pytest.approx(two, rel=RELATIVE, abs=ABSOLUTE)


@pytest.mark.slow
def test_all_processes_return_the_result_and_one_writes(
    made_by, tiny_config, tiny_data
):
    folder = made_by(tiny_config, tiny_data)[2]
    names = {path.name for path in folder.iterdir()}
    assert names == {*CASES} | {f"{n}-{rank}.pt" for n in CASES for rank in (0, 1)}
    for name in CASES:
        first, second = (torch.load(folder / f"{name}-{rank}.pt") for rank in (0, 1))
        assert torch.equal(first, second)


# One command, as users start it.


@pytest.fixture
def command(tiny_config, npz_root, tmp_path):
    def start(out: Path) -> subprocess.Popen:
        path = tmp_path / "tiny.yaml"
        config = tiny_config.with_overrides(
            [
                "loop.network_updates=80",
                "evaluate.baselines=[]",
                "evaluate.recipe=paper-300",
            ]
        )
        path.write_text(config.to_yaml())
        line = (
            "-m torch.distributed.run --standalone --nproc-per-node 2 "
            f"-m condense_core run {path} --data-root {npz_root} --out {out} "
            "--device cpu"
        )
        return subprocess.Popen(
            [sys.executable, *line.split()],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def children_of(process: subprocess.Popen) -> list[int]:
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(pid) for pid in listed.split()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers there")
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_run_and_the_command_resumes(
    command, tmp_path, victim
):
    out = tmp_path / "run"
    process = command(out)
    metrics = out / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_bytes()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(children_of(process)[victim], signal.SIGKILL)
    killed = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - killed < 60
    assert process.returncode != 0
    assert re.search(r"exitcode\s*:\s*-9", errors)
    assert not (out / "condensed.safetensors").exists()

    again = command(out)
    output, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    assert output.count("report:") == 1
    assert errors.count(" test images of ") == 1
    report = json.loads((out / "report.json").read_text())
    assert report["repeats"] == 1


# The pieces, in this process.


def test_parts_cover_the_whole_as_evenly_as_can_be():
    for whole in (2, 3, 7, 10):
        for world in range(1, whole + 1):
            parts = [Ranks(rank, world).part(whole) for rank in range(world)]
            rows = [row for part in parts for row in range(whole)[part.rows]]
            assert rows == list(range(whole))
            sizes = [part.stop - part.start for part in parts]
            assert max(sizes) - min(sizes) <= 1
            assert min(sizes) >= 1
            assert sum(part.share for part in parts) == pytest.approx(1)
    assert Part(1, 3, 4).times(5) == Part(5, 15, 20)


def test_alone_everything_is_the_identity(generator):
    values = torch.rand(2, 3, generator=generator)
    assert ALONE.sum(values) is values
    assert ALONE.gather(values, ALONE.part(2)) is values
    assert ALONE.part(2).share == 1.0
    assert ALONE.from_first(lambda: "made", torch.device("cpu")) == "made"
    norm = nn.BatchNorm2d(2)
    with shared_norms(norm, ALONE):
        assert "forward" not in vars(norm)


def test_apart_a_process_computes_its_own_share(generator):
    values = torch.rand(2, 3, generator=generator)
    last = Apart(1, 2)
    assert last.part(3) == Part(1, 3, 3)
    assert torch.equal(last.sum(values), values)
    assert torch.equal(last.sum_all([values])[0], values)
    assert torch.equal(last.gather(values, last.part(3))[1:], values)


class Echo(Ranks):
    """Two processes that hold the same rows: a sum is a doubling."""

    def sum(self, values):
        return 2 * values


@pytest.mark.parametrize("training", [True, False])
def test_a_shared_norm_equals_the_norm_of_the_joint_batch(generator, training):
    images = torch.randn(4, 3, 2, 2, generator=generator).requires_grad_()
    twice = torch.cat([images, images]).detach().requires_grad_()
    shared, joint = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    for norm in (shared, joint):
        norm.train(training)
        nn.init.constant_(norm.bias, 0.5)
        norm.running_mean.fill_(0.3)
    with shared_norms(shared, Echo(0, 2)):
        result = shared(images)
    expected = joint(twice)
    torch.testing.assert_close(torch.cat([result, result]), expected)
    for name, value in joint.state_dict().items():
        torch.testing.assert_close(shared.state_dict()[name], value)
    assert "forward" not in vars(shared)


def test_more_processes_than_classes_are_refused(tiny_config):
    check_ranks(tiny_config, 3, Ranks(0, 3))
    with pytest.raises(ConfigError, match="4 processes for 3 classes of a step: use"):
        check_ranks(tiny_config, 3, Ranks(0, 4))
    few = tiny_config.with_overrides(["loop.classes_per_step=2"])
    with pytest.raises(ConfigError, match="3 processes for 2 classes"):
        check_ranks(few, 3, Ranks(0, 3))
    small = tiny_config.with_overrides(["loop.network_batch=1"])
    with pytest.raises(ConfigError, match=r"2 processes for 1 images of phi"):
        check_ranks(small, 3, Ranks(0, 2))


@pytest.mark.parametrize(
    ("ranks", "override", "message"),
    [
        (Ranks(1, 4), [], "4 processes for 3 classes of a step"),
        (Ranks(0, 2), ["compute.compile=graphs"], "graphs needs one process"),
    ],
)
def test_the_command_refuses_before_it_times_or_writes(
    tiny_config, npz_root, tmp_path, monkeypatch, capsys, ranks, override, message
):
    @distributed.contextmanager
    def group(device):
        yield ranks

    monkeypatch.setattr(condensing, "process_group", group)
    monkeypatch.setattr(condensing, "schedule", None)
    path, out = tmp_path / "tiny.yaml", tmp_path / "run"
    path.write_text(tiny_config.with_overrides(override).to_yaml())
    line = f"run {path} --data-root {npz_root} --out {out} --device cpu"
    assert main(line.split()) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


# Devices of many processes


@pytest.fixture
def second_of_two(monkeypatch):
    """What the second of two processes touches, on a machine of two GPUs."""
    touched = []

    def resolve(name):
        touched.append(("resolved", str(name)))
        return torch.device(name)

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda,
        "set_device",
        lambda device: touched.append(("current", str(device))),
    )
    monkeypatch.setattr(distributed, "resolve_device", resolve)
    return touched


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_a_process_touches_its_own_gpu_alone(second_of_two, name):
    assert own_device(name) == torch.device("cuda", 1)
    assert second_of_two == [("resolved", "cuda:1"), ("current", "cuda:1")]


def test_on_cpus_no_gpu_is_touched(second_of_two):
    assert own_device("cpu") == torch.device("cpu")
    assert second_of_two == [("resolved", "cpu")]


def test_one_gpu_for_many_processes_is_refused(second_of_two):
    with pytest.raises(ConfigError, match="cuda:1 is one GPU for 2 processes: use"):
        own_device("cuda:1")
    assert second_of_two == []


@pytest.mark.parametrize(
    "text", ["[gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]"]
)
def test_a_lost_process_is_one_clear_line(monkeypatch, text):
    monkeypatch.setenv("WORLD_SIZE", "2")

    def lost(*_, **__):
        raise RuntimeError(text)

    monkeypatch.setattr(torch.distributed, "init_process_group", lost)
    with (
        pytest.raises(RunError, match=r"another process .*closed by peer.* same torch"),
        process_group(torch.device("cpu")),
    ):
        pytest.fail("entered")


def test_other_errors_are_not_disguised():
    with pytest.raises(RuntimeError, match=r"^boom$"), distributed._lost_process():
        raise RuntimeError("boom")
    with pytest.raises(RunError, match=r"^disk$"), distributed._lost_process():
        raise RunError("disk")


def test_without_torchrun_there_is_no_group(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    device = own_device("cpu")
    assert device == torch.device("cpu")
    with process_group(device) as ranks:
        assert ranks == ALONE
    assert not torch.distributed.is_initialized()
