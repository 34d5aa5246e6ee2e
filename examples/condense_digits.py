"""Condense scikit-learn's 8x8 digits in Python and train a network on the result.

A shortened version of ``condense run digits``: settings are for a minute on a laptop,
not for good numbers. Needs ``pip install -e '.[demo]'``.
"""

from condense_core import CondenseConfig, condense, evaluate
from condense_core.data.sources import load_source

train = load_source("digits", split="train", data_root=None)
test = load_source("digits", split="test", data_root=None)

config = CondenseConfig.preset("digits").with_overrides(
    ["loop.restarts=2", "evaluate.probe_every=0"]
)
condensed = condense(train, config)  # out="runs/mine" makes it resumable

images, labels = condensed.images()
print(f"{len(train)} images -> {len(images)}, {condensed.nbytes:,} bytes")

report = evaluate(condensed, test, recipe="paper-300", width=32, repeats=2, flip=False)
print(f"accuracy {report.accuracy_mean:.1f} ± {report.accuracy_std:.1f} %")
