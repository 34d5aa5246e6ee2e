"""Accuracies the documents quote are those of the pages written from JSON files."""

import json
import re
from pathlib import Path
from statistics import mean, pstdev

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("results", "federated-results", "continual-results", "frontier-results")
PRIVATE = ROOT / "docs/results/private-digits.json"
ACCURACY = re.compile(r"(\d+\.\d+) ± (\d+\.\d+)")
ROUNDING = 0.06  # a page has one digit, of what a document may quote with two
# Measured before results were kept in files; full data in the output of a run.
UNFILED = {(94.56, 1.91)}


def accuracies(text: str) -> set[tuple[float, float]]:
    """Every mean with its deviation."""
    return {(float(m), float(s)) for m, s in ACCURACY.findall(text)}


def filed() -> set[tuple[float, float]]:
    """What the pages say."""
    pages = [ROOT / f"docs/{name}.md" for name in PAGES]
    texts = [page.read_text("utf-8") for page in (*pages, ROOT / "zoo/README.md")]
    private = json.loads(PRIVATE.read_text("utf-8")).values()
    spreads = {(mean(each), pstdev(each)) for each in private}
    return spreads.union(*map(accuracies, texts))


@pytest.mark.parametrize(
    "document", ["README.md", "docs/federated.md", "docs/continual.md"]
)
def test_a_quoted_accuracy_is_on_file(document):
    text = (ROOT / document).read_text("utf-8")
    quoted, known = accuracies(text) - UNFILED, filed()
    assert quoted, "nothing was found to check"
    strangers = {
        (m, s)
        for m, s in quoted
        if not any(abs(m - a) < ROUNDING and abs(s - b) < ROUNDING for a, b in known)
    }
    assert not strangers
