"""Reading untrusted arrays: exact bytes of a known shape and type, or nothing.

`flwr.app.Array` carries NumPy's file format, and its ``numpy()`` trusts the header: it
allocates a claimed size of 2^34 elements, and opens a zip file. Here shape and type are
computed by the *receiver*, and the bytes must match them exactly.
"""

import math
from io import BytesIO

import numpy as np
from flwr.app import Array
from numpy.lib import format as npy_format
from numpy.typing import NDArray

HEADER_BYTES = 1024  # no header that we write is longer
_READ_HEADER = {
    (1, 0): npy_format.read_array_header_1_0,
    (2, 0): npy_format.read_array_header_2_0,
}


class PayloadError(ValueError):
    """A contribution is refused; the text is the reason given in the result."""


def write_array(values: NDArray[np.generic]) -> Array:
    """An array in the one layout that `read_array` accepts."""
    return Array(np.ascontiguousarray(values))


def read_array(
    array: Array,
    name: str,
    *,
    shape: tuple[int, ...],
    dtype: np.dtype[np.generic],
    largest: float,
) -> NDArray[np.generic]:
    """The values of an array that is exactly as expected.

    Args:
        array: As received; its ``shape`` and ``dtype`` are mere claims and not read.
        name: Named in error messages.
        shape: Expected shape.
        dtype: Expected type.
        largest: Bound on the magnitude of floats.

    Raises:
        PayloadError: The array differs in any way.
    """
    need = math.prod(shape) * dtype.itemsize
    if array.stype != "numpy.ndarray" or not need < len(array.data) <= (
        need + HEADER_BYTES
    ):
        raise PayloadError(
            f"array {name} has {len(array.data)} bytes, expected {need} and a header"
        )
    stream = BytesIO(array.data)
    try:
        read_header = _READ_HEADER[npy_format.read_magic(stream)]
        found_shape, fortran, found_dtype = read_header(stream)
    except Exception as error:  # NumPy's header parser also raises tokenizer errors
        raise PayloadError(f"array {name} has no readable header") from error
    rest = len(array.data) - stream.tell()
    transposed = fortran and len(shape) > 1
    if found_shape != shape or found_dtype != dtype or transposed or rest != need:
        raise PayloadError(
            f"array {name} is {found_dtype} {found_shape!r:.60}, expected {dtype} "
            f"{shape}"
        )
    values = np.frombuffer(array.data, dtype, offset=stream.tell()).reshape(shape)
    if dtype.kind == "f":
        if not np.isfinite(values).all():
            raise PayloadError(f"array {name} holds NaN or infinite values")
        if values.size and float(np.abs(values).max()) > largest:
            raise PayloadError(f"array {name} holds values beyond {largest:g}")
    return values
