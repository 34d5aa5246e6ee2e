import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from flower_strategy.npy import PayloadError
from flower_strategy.payload import content_bytes, decode, encode, payload_size
from flower_strategy.privacy import NoisyStatistics, PrivacyConfig


def changed(content, **values):
    """The message with other values in its specification."""
    spec = json.loads(content["spec"]["json"]) | values
    content["spec"] = ConfigRecord({"json": json.dumps(spec)})
    return content


def positive(content):
    """The message with a generator that large inputs saturate at every pixel."""
    arrays = content["condensed"]
    for name in [n for n in arrays if n.endswith("weight")]:
        arrays[name] = Array(np.abs(arrays[name].numpy()) / 2)
    return content


def architecture(contribution, **values):
    return contribution.condensed.spec.to_dict() | values


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_round_trip_is_bit_exact(contribute, limits, precision):
    sent = contribute(client="site-1", class_ids=(1, 3), precision=precision)
    found = decode(encode(sent), limits)
    assert (found.client, found.class_ids, found.counts) == (
        "site-1",
        (1, 3),
        (20, 20),
    )
    assert found.condensed.classes == ("bee", "dog")
    assert found.privacy is None
    torch.testing.assert_close(
        found.condensed.images()[0], sent.condensed.images()[0], rtol=0, atol=0
    )


def test_a_decoded_set_can_be_saved_and_loaded(contribute, limits, tmp_path):
    found = decode(encode(contribute()), limits).condensed
    found.save(tmp_path / "a.safetensors")
    assert type(found).load(tmp_path / "a.safetensors").digest == found.digest


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("blocks", [1, 2])
def test_size_is_known_before_training(contribute, precision, blocks):
    sent = contribute(precision=precision, blocks=blocks)
    size = content_bytes(encode(sent))
    predicted = payload_size(sent.condensed.spec, precision)
    assert size <= predicted <= size + 700


def test_size_of_a_private_contribution_is_known_too(contribute):
    config = PrivacyConfig(epsilon=1.2345678901234, delta=1.2345678901234e-5)
    report = NoisyStatistics(
        sums_YD=torch.zeros(1, 4),
        counts_Y=torch.ones(1),
        classes=("a",),
        image_shape=(1, 8, 8),
        config=config,
    ).report()
    sent = replace(contribute("c" * 64, (0,), (10**9,)), privacy=report)
    spec = sent.condensed.spec
    bound = payload_size(spec, "fp16", private=True)
    assert content_bytes(encode(sent)) <= bound
    # Room for the longest report, whatever room name and counts leave.
    assert bound - payload_size(spec, "fp16") >= len(json.dumps(report))


def test_bytes_count_arrays_texts_and_numbers():
    content = RecordDict(
        {
            "a": ArrayRecord({"x": Array(np.zeros(3, np.float32))}),
            "c": ConfigRecord({"key": "value", "n": 12}),
            "m": MetricRecord({"k": [1.0, 2.0]}),
        }
    )
    assert content_bytes(content) == 128 + 12 + (3 + 5 + 1 + 2) + (1 + 16)


def test_too_large_a_message_is_refused_unread(contribute, limits):
    content = encode(contribute())
    name = next(iter(content["condensed"]))
    content["condensed"][name] = Array(np.zeros(200_000, np.int8))
    with pytest.raises(PayloadError, match="more than the 150000"):
        decode(content, limits)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"class_ids": [0, 4]}, "class_ids"),
        ({"class_ids": [-1, 2]}, "class_ids"),
        ({"class_ids": [0, 2.0]}, "class_ids"),
        ({"class_ids": [True, 2]}, "class_ids"),
        ({"class_ids": [2, 0]}, "ascending"),
        ({"class_ids": [0, 0]}, "ascending"),
        ({"class_ids": [0]}, "ascending"),
        ({"class_ids": []}, "class_ids"),
        ({"counts": [20, 10**12]}, "counts"),
        ({"counts": [20, 0]}, "counts"),
        ({"counts": [20, -5]}, "counts"),
        ({"counts": [20, "5"]}, "counts"),
        ({"counts": "many"}, "counts"),
        ({"version": 99}, "version"),
        ({"client": "../../etc/passwd"}, "not allowed"),
        ({"client": 7}, "not allowed"),
        ({"client": "x" * 65}, "not allowed"),
        ({"precision": "pickle"}, "precision"),
        ({"architecture": {"kind": "resnet"}}, "metadata"),
        ({"architecture": None}, "metadata"),
        ({"normalisation": {"mean": [0.5], "std": [0.0]}}, "normalisation"),
        ({"privacy": {"epsilon": [1]}}, "privacy"),
        ({"privacy": {"epsilon": "x" * 81}}, "privacy"),
        ({"privacy": {str(i): 1 for i in range(17)}}, "privacy"),
        ({"privacy": 5}, "privacy"),
        ({"extra": 1}, "other keys"),
    ],
)
def test_a_wrong_specification_is_refused(contribute, limits, values, reason):
    with pytest.raises(PayloadError, match=reason):
        decode(changed(encode(contribute()), **values), limits)


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "pixels"},
        {"kind": "torch.nn.Linear"},
        {"image_shape": [1, 16, 16]},
        {"image_shape": [3, 8, 8]},
        {"latent_dim": 4},
        {"latent_dim": 2**40},
        {"channels": 4096},
        {"num_classes": 3},
        {"blocks": 9},
        {"code": "import os"},
    ],
)
def test_an_unknown_architecture_is_refused(contribute, limits, values):
    sent = contribute()
    content = changed(encode(sent), architecture=architecture(sent, **values))
    with pytest.raises(PayloadError):
        decode(content, limits)


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 99_000, " "])
def test_broken_json_is_refused(contribute, limits, text):
    content = encode(contribute())
    content["spec"] = ConfigRecord({"json": text})
    with pytest.raises(PayloadError, match="specification"):
        decode(content, limits)


def test_a_specification_that_is_too_long_is_refused(contribute, limits):
    content = encode(contribute())
    text = content["spec"]["json"]
    content["spec"] = ConfigRecord({"json": text + " " * (100_000 - len(text))})
    decode(content, limits)
    content["spec"] = ConfigRecord({"json": text + " " * (100_001 - len(text))})
    with pytest.raises(PayloadError, match="too long"):
        decode(content, limits)


def test_missing_and_unexpected_arrays_are_refused(contribute, limits):
    content = encode(contribute())
    name = next(iter(content["condensed"]))
    array = content["condensed"].pop(name)
    with pytest.raises(PayloadError, match="missing or not expected"):
        decode(content, limits)
    content["condensed"]["__reduce__"] = array
    with pytest.raises(PayloadError, match="missing or not expected"):
        decode(content, limits)


def test_records_of_other_names_or_types_are_refused(contribute, limits):
    content = encode(contribute())
    metrics = content["metrics"]
    content["more"] = metrics
    with pytest.raises(PayloadError, match="records"):
        decode(content, limits)
    del content["more"]
    content["metrics"] = ConfigRecord({"seconds": 1.0})
    with pytest.raises(PayloadError, match="other types"):
        decode(content, limits)


@pytest.mark.parametrize("seconds", [float("nan"), -1.0, 1e9, 5, [1.0]])
def test_an_implausible_time_is_refused(contribute, limits, seconds):
    content = encode(contribute())
    content["metrics"] = MetricRecord({"num-examples": 40, "seconds": seconds})
    with pytest.raises(PayloadError, match="number of seconds"):
        decode(content, limits)


@pytest.mark.parametrize("value", [np.nan, np.inf, 2e4])
def test_values_that_are_no_weights_are_refused(contribute, limits, value):
    content = encode(contribute())
    arrays = content["condensed"]
    name = next(n for n in arrays if n.endswith("weight"))
    values = arrays[name].numpy().copy()
    values.flat[0] = value
    arrays[name] = Array(values)
    with pytest.raises(PayloadError, match=name):
        decode(content, limits)


def test_finite_weights_that_make_no_images_are_refused(contribute, limits):
    content = encode(contribute())
    arrays = content["condensed"]
    variances = [n for n in arrays if n.endswith("running_var")]
    assert variances
    for name in variances:  # the square root of a negative number
        arrays[name] = Array(np.full_like(arrays[name].numpy(), -1.0))
    with pytest.raises(PayloadError, match="not finite"):
        decode(content, limits)


def test_constant_images_are_refused(contribute, limits):
    content = encode(contribute())
    arrays = content["condensed"]
    for name in list(arrays):
        if name.startswith("generator."):
            arrays[name] = Array(np.zeros_like(arrays[name].numpy()))
    with pytest.raises(PayloadError, match="constant or out of range"):
        decode(content, limits)


def test_constant_images_of_one_class_are_refused(contribute, limits):
    content = positive(encode(contribute(class_ids=(0, 2))))
    arrays = content["condensed"]
    decode(content, limits)
    embedding = arrays["class_embedding"].numpy().copy()
    embedding[1] = 1e4
    arrays["class_embedding"] = Array(embedding)
    with pytest.raises(PayloadError, match="'cat' are constant"):
        decode(content, limits)


@pytest.mark.parametrize("dispersion", [9000.0, 1.01, -0.01])
def test_noise_that_would_hide_the_images_is_refused(contribute, limits, dispersion):
    content = encode(contribute(dispersion=True))
    arrays = content["condensed"]
    values = arrays["dispersion"].numpy().copy()
    for allowed in (0.0, 1.0):
        values[1] = allowed
        arrays["dispersion"] = Array(values)
        decode(content, limits)
    values[1] = dispersion
    arrays["dispersion"] = Array(values)
    with pytest.raises(PayloadError, match="dispersion of class 'cat'"):
        decode(content, limits)


def test_constant_images_between_the_places_of_the_codebook_are_refused(
    contribute, limits
):
    """Those of four codes are 1/8, 3/8, 5/8, 7/8; most images come from elsewhere."""
    content = positive(encode(contribute(code_components=(9, 1), precision="fp32")))
    arrays = content["condensed"]
    means = arrays["component_mean"].numpy().copy()
    means[:, 0:9:2] = 1e4
    arrays["component_mean"] = Array(means)
    shares = np.array([0.12, 0.01, 0.24, 0.01, 0.24, 0.01, 0.24, 0.01, 0.12])
    logits = np.append(np.log(shares), 0.0).astype(np.float32)[None]
    arrays["component_logit"] = Array(logits)
    with pytest.raises(PayloadError, match="'ant' are constant"):
        decode(content, limits)


def test_a_constant_image_among_others_is_accepted(contribute, limits):
    content = positive(encode(contribute(code_components=(2, 1), precision="fp32")))
    arrays = content["condensed"]
    means = arrays["component_mean"].numpy().copy()
    means[:, 0] = 1e4
    arrays["component_mean"] = Array(means)
    arrays["component_logit"] = Array(np.log([[0.2, 0.8, 1.0]]).astype(np.float32))
    decode(content, limits)


def test_blocks_that_only_cost_memory_are_refused(contribute, limits):
    # A few numbers, and maps of 64 times the pixels of an image.
    with pytest.raises(PayloadError, match="4 blocks, 1 are enough"):
        decode(encode(contribute(blocks=4)), limits)
