import io
import zipfile

import numpy as np
import pytest
from flwr.app import Array
from numpy.lib import format as npy_format

from flower_strategy.npy import PayloadError, read_array, write_array

SHAPE, DTYPE = (2, 3), np.dtype(np.float32)
VALUES = np.arange(6, dtype=np.float32).reshape(SHAPE)


def read(array, shape=SHAPE, dtype=DTYPE, largest=100.0):
    return read_array(array, "weights", shape=shape, dtype=dtype, largest=largest)


def with_data(data, stype="numpy.ndarray"):
    return Array(dtype="float32", shape=SHAPE, stype=stype, data=data)


def header_claiming(shape, dtype=DTYPE, fortran=False):
    stream = io.BytesIO()
    content = {
        "descr": npy_format.dtype_to_descr(dtype),
        "fortran_order": fortran,
        "shape": shape,
    }
    npy_format.write_array_header_1_0(stream, content)
    return stream.getvalue()


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.int8])
def test_round_trip_is_exact(kind):
    values = VALUES.astype(kind)
    found = read(write_array(values), dtype=np.dtype(kind))
    assert found.dtype == kind
    np.testing.assert_array_equal(found, values)


def test_transposed_values_are_sent_in_order():
    np.testing.assert_array_equal(read(write_array(VALUES.T.copy().T)), VALUES)


def zip_bytes():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.npy", bytes(50))
    return stream.getvalue()


HOSTILE = {
    "empty": b"",
    "zip": zip_bytes(),
    "huge header": header_claiming((2**34,)) + bytes(24),
    "another shape": header_claiming((3, 2)) + bytes(24),
    "another type": header_claiming(SHAPE, np.dtype(np.int32)) + bytes(24),
    "big endian": header_claiming(SHAPE, np.dtype(">f4")) + bytes(24),
    "column order": header_claiming(SHAPE, fortran=True) + bytes(24),
    "truncated": header_claiming(SHAPE) + bytes(23),
    "something after it": header_claiming(SHAPE) + bytes(25),
    "objects": header_claiming(SHAPE, np.dtype(object)) + bytes(24),
    "complex": header_claiming(SHAPE, np.dtype(np.complex64)) + bytes(24),
    "not a number": header_claiming(SHAPE)
    + np.full(SHAPE, np.nan, np.float32).tobytes(),
    "infinite": header_claiming(SHAPE) + np.full(SHAPE, np.inf, np.float32).tobytes(),
    "too large": header_claiming(SHAPE) + np.full(SHAPE, 101, np.float32).tobytes(),
    "no magic": bytes(100),
    "nested header": b"\x93NUMPY\x01\x00" + (60).to_bytes(2, "little") + b"(" * 60,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_are_refused(name):
    with pytest.raises(PayloadError, match="array weights"):
        read(with_data(HOSTILE[name]))


def test_another_serialisation_is_refused():
    with pytest.raises(PayloadError):
        read(with_data(write_array(VALUES).data, stype="pickle"))


def test_claims_of_the_message_are_not_believed():
    lying = Array(
        dtype="int8", shape=(1,), stype="numpy.ndarray", data=write_array(VALUES).data
    )
    np.testing.assert_array_equal(read(lying), VALUES)
