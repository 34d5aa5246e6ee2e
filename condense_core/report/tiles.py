"""Which images a report shows, and a labelled grid of them.

Shape legend: B batch, C channels, H height, W width.
"""

import io
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from condense_core.data.png import picture
from condense_core.runlog import atomic_write_bytes

PER_CLASS = 10
"""Images of one class that are shown."""
_ROWS = 100
_SMALLEST_TILE = 32
_GAP = 2


def first_of_each_class(labels_B: Tensor, num_classes: int) -> list[list[int]]:
    """Positions of the first few images of every class, in class order."""
    places: list[list[int]] = [[] for _ in range(num_classes)]
    for place, label in enumerate(labels_B.tolist()):
        if len(places[label]) < PER_CLASS:
            places[label].append(place)
    return places


def write_samples_png(
    condensed_images: Tensor, labels: Tensor, classes: Sequence[str], path: Path
) -> None:
    """Write a grid of the condensed images: one named row a class, ten images at most.

    Args:
        condensed_images: (B, C, H, W), float in [0, 1] or uint8.
        labels: (B,), values 0 to the number of classes minus 1.
        classes: Names, in the order of the labels; the first hundred are drawn.
        path: The PNG to write.

    Raises:
        RunError: If the disk is full or the file cannot be written.
    """
    from PIL import Image, ImageDraw, ImageFont

    rows = first_of_each_class(labels, len(classes))[:_ROWS]
    # The built-in font has Latin letters only.
    names = [name.encode("latin-1", "replace").decode("latin-1") for name in classes]
    names = [name if len(name) <= 20 else f"{name[:17]}..." for name in names]
    font = ImageFont.load_default()
    left = round(max(font.getlength(name) for name in names)) + 4 * _GAP
    height, width = condensed_images.shape[-2:]
    zoom = max(1, -(-_SMALLEST_TILE // max(height, width)))
    cell_y, cell_x = height * zoom + _GAP, width * zoom + _GAP
    columns = max(len(row) for row in rows)
    size = (left + columns * cell_x, len(rows) * cell_y + _GAP)
    grid = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(grid)
    for index, row in enumerate(rows):
        top = _GAP + index * cell_y
        middle = (2 * _GAP, top + height * zoom // 2)
        draw.text(middle, names[index], fill="black", font=font, anchor="lm")
        for column, place in enumerate(row):
            tile = picture(condensed_images[place])
            tile = tile.resize((width * zoom, height * zoom), Image.Resampling.NEAREST)
            grid.paste(tile, (left + column * cell_x, top))
    buffer = io.BytesIO()
    grid.save(buffer, "PNG", optimize=True)
    atomic_write_bytes(path, buffer.getvalue())
