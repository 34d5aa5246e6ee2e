"""Options that change how images are read, as error messages name them.

The readers serve several commands: ``run`` and ``teacher`` take keys of the
configuration, ``evaluate`` has an option for each.
"""

CHANNELS = "--set data.channels=3 (with evaluate --channels 3)"
IMAGE_SIZE = "--set data.image_size=[32,32] (with evaluate --image-size 32 32)"
SHAPE = (
    "--set data.channels=3 --set data.image_size=[32,32] "
    "(with evaluate --channels 3 --image-size 32 32)"
)
CLASSES = "--set data.classes=[cat,dog] (with evaluate --classes cat,dog)"
