"""Captures and replays; on a CPU with a CUDA that only notes where it is used."""

import gc
import weakref
from contextlib import contextmanager

import pytest
import torch

from condense_core.augment import SiameseAugment
from condense_core.compute.graphs import WARM_UP, GraphedFunction
from condense_core.config import UnrolledConfig
from condense_core.objectives.unrolled import StudentPool


class Stream:
    def __init__(self, device=None):
        self.device = device

    def wait_stream(self, stream):
        pass


class Cuda:
    """What graphs use of `torch.cuda`, with a GPU that is current by default.

    Attributes:
        used: Names of what was done, each with the device that was current.
    """

    def __init__(self):
        self.current, self.used = "the first GPU", []

    def note(self, what):
        self.used.append((what, self.current))

    @contextmanager
    def device(self, device):
        before, self.current = self.current, device
        yield
        self.current = before

    @contextmanager
    def stream(self, stream):
        yield self.note("stream")

    def Stream(self, device=None):
        return Stream(device or self.current)

    def current_stream(self):
        return self.Stream()

    def CUDAGraph(self):
        note = self.note

        class Graph:
            def replay(self):
                note("replay")

        return Graph()

    @contextmanager
    def graph(self, graph, *, stream):
        assert stream.device == self.current
        yield self.note("capture")


@pytest.fixture
def cuda(monkeypatch):
    made = Cuda()
    for name in ("device", "stream", "Stream", "current_stream", "CUDAGraph", "graph"):
        monkeypatch.setattr(torch.cuda, name, getattr(made, name))
    return made


def test_a_graph_is_captured_and_replayed_on_the_gpu_of_its_tensors(cuda):
    double = GraphedFunction(lambda values: (2 * values,))
    for _ in range(2):
        double(torch.ones(3))
    here = torch.device("cpu")  # stands for a GPU that is not current
    assert cuda.used == [
        (what, here) for what in ("stream", "capture", *["replay"] * 2)
    ]
    assert cuda.current == "the first GPU"


def test_other_shapes_are_captured_anew(cuda):
    calls = []
    double = GraphedFunction(
        lambda values: (calls.append(values.shape), 2 * values)[1:]
    )
    for shape in ((3,), (3,), (2, 3)):
        double(torch.ones(shape))
    once = WARM_UP + 1
    assert calls == [torch.Size([3])] * once + [torch.Size([2, 3])] * once


def build(students):
    return StudentPool(
        UnrolledConfig(students=students, at_once=students, width=4),
        image_shape=(1, 8, 8),
        num_classes=3,
        augment=SiameseAugment.from_text("none"),
        seed=0,
        device=torch.device("cpu"),
        graphs=True,
    )


def test_streams_of_students_are_on_the_gpu_of_the_students(cuda, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "Stream", asked.append)
    build(students=2)
    assert asked == [torch.device("cpu")] * 2


def test_a_graph_is_freed_with_its_students():
    pool = build(students=1)
    graphed = weakref.ref(pool._graphed)
    gc.disable()
    try:
        del pool
        assert graphed() is None
    finally:
        gc.enable()


def test_a_graph_works_on_every_gpu(device):
    if device.type != "cuda":
        pytest.skip("graphs need --device cuda")
    for index in range(torch.cuda.device_count()):
        double = GraphedFunction(lambda values: (2 * values,))
        for value in (1.0, 2.0):
            (result,) = double(torch.full((3,), value, device=f"cuda:{index}"))
            assert result.tolist() == [2 * value] * 3
