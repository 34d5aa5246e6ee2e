import functools

import pytest
import torch
from torch import nn

from condense_core.compute.mode import (
    compute_scope,
    full_precision,
    resolve_precision,
    uses_graphs,
)
from condense_core.config import ComputeConfig
from condense_core.errors import ConfigError
from condense_core.runs.run import condense

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def images(config, data, *overrides):
    made = condense(
        data, config.with_overrides(list(overrides)), device="cpu", progress=False
    )
    return made.images()[0]


@pytest.mark.parametrize(
    ("name", "device", "expected"),
    [
        ("auto", CPU, "fp32"),
        ("auto", CUDA, "tf32"),
        ("bf16", CPU, "bf16"),
        ("fp32", CUDA, "fp32"),
        ("tf32", CUDA, "tf32"),
    ],
)
def test_precision_follows_setting_and_device(name, device, expected):
    assert resolve_precision(name, device) == expected


def test_tf32_is_refused_where_there_is_none(tiny_config, tiny_data, tmp_path):
    with pytest.raises(ConfigError, match="tf32 needs a CUDA device, not cpu"):
        condense(
            tiny_data,
            tiny_config.with_overrides(["compute.precision=tf32"]),
            out=tmp_path / "run",
            device="cpu",
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "device", "world", "expected"),
    [
        ("auto", CPU, 1, False),
        ("auto", CUDA, 1, True),
        ("auto", CUDA, 2, False),
        ("none", CUDA, 1, False),
        ("default", CUDA, 1, False),
        ("graphs", CUDA, 1, True),
    ],
)
def test_graphs_are_for_one_process_on_cuda(name, device, world, expected):
    assert uses_graphs(ComputeConfig(compile=name), device, world) == expected


@pytest.mark.parametrize(("device", "world"), [(CPU, 1), (CUDA, 2)])
def test_graphs_are_refused_elsewhere(device, world):
    said = f"not {world} on {device.type}: use auto"
    with pytest.raises(ConfigError, match=said):
        uses_graphs(ComputeConfig(compile="graphs"), device, world)


def test_graphs_without_a_gpu_are_refused_before_the_work(
    tiny_config, tiny_data, tmp_path
):
    config = tiny_config.with_overrides(["compute.compile=graphs"])
    with pytest.raises(ConfigError, match="not 1 on cpu: use auto"):
        condense(tiny_data, config, out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()
    without_students = config.with_overrides(["loss.unrolled=0"])
    condense(tiny_data, without_students, device="cpu", progress=False)


@pytest.mark.parametrize("name", ["fp32", "tf32", "bf16"])
@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
def test_the_scope_restores_what_it_found(name):
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [flag.allow_tf32 for flag in flags]
    with compute_scope(ComputeConfig(precision=name), CUDA):
        assert [flag.allow_tf32 for flag in flags] == [name != "fp32"] * 2
    assert [flag.allow_tf32 for flag in flags] == before


def test_only_bf16_lowers_products(generator):
    layer, values = nn.Linear(3, 3), torch.rand(2, 3, generator=generator)
    for name, dtype in (("bf16", torch.bfloat16), ("auto", torch.float32)):
        with compute_scope(ComputeConfig(precision=name), CPU):
            assert layer(values).dtype == dtype
    assert layer(values).dtype == torch.float32


def test_a_step_within_the_scope_sees_the_weights_it_made():
    layer = nn.Linear(1, 1, bias=False)
    one = torch.ones(1, 1)
    with compute_scope(ComputeConfig(precision="bf16"), CPU):
        for value in (1.0, 2.0):
            nn.init.constant_(layer.weight, value)
            assert layer(one).item() == value


def test_full_precision_never_lowers():
    for given, expected in (
        (torch.bfloat16, torch.float32),
        (torch.half, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ):
        assert full_precision(torch.zeros(1, dtype=given)).dtype == expected


@pytest.mark.parametrize("unrolled", [0.0, 0.5])
def test_bf16_changes_images_by_rounding_alone(tiny_config, tiny_data, unrolled):
    loss = f"loss.unrolled={unrolled}"
    plain = images(tiny_config, tiny_data, loss, "compute.precision=fp32")
    rounded = images(tiny_config, tiny_data, loss, "compute.precision=bf16")
    start = images(tiny_config, tiny_data, loss, "loop.restarts=0")
    assert rounded.dtype == torch.float32
    difference = (rounded - plain).abs().mean()
    assert 0 < difference < 0.2 * (plain - start).abs().mean()


def test_auto_is_fp32_on_the_cpu_bit_by_bit(tiny_config, tiny_data):
    plain = images(tiny_config, tiny_data, "compute.precision=fp32")
    assert torch.equal(images(tiny_config, tiny_data), plain)


def test_compiled_parts_compute_the_same(tiny_config, tiny_data, monkeypatch):
    # The tracing of the compiler without its code generator, which takes a minute.
    traced = functools.partial(torch.compile, backend="aot_eager")
    calls = []

    def spy(function, **options):
        calls.append(options)
        return traced(function, **options)

    monkeypatch.setattr(torch, "compile", spy)
    plain = images(tiny_config, tiny_data)
    assert not calls
    compiled = images(tiny_config, tiny_data, "compute.compile=default")
    assert calls == [{"dynamic": False}] * 4  # G, and phi at its construction and twice
    assert torch.allclose(plain, compiled, atol=2 / 255)


def test_compiling_excludes_second_derivatives(tiny_config):
    overrides = ["compute.compile=default", "loss.gradient=1"]
    with pytest.raises(ConfigError, match=r"loss\.gradient needs: use compute"):
        tiny_config.with_overrides(overrides)
