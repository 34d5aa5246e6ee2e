"""docs/results.md from the files that `paper_tables.py` wrote; nothing typed by hand.

    python benchmarks/paper_report.py runs/paper --out docs/results.md \
        --out-plot docs/images/figure4.png
"""

import argparse
import sys
from pathlib import Path

from paper_lib.figure import plot, read_panels
from paper_lib.report import Results, report

from condense_core.runlog import atomic_write_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what paper_tables.py calls --out")
    parser.add_argument("--out", type=Path, help="Markdown file (default: print)")
    parser.add_argument("--out-plot", type=Path, help="Figure 4, from the runs")
    arguments = parser.parse_args()
    text = report(Results.read(arguments.folder))
    if arguments.out_plot is not None:
        panels = read_panels(arguments.folder)
        if not panels:
            sys.exit(f"no run of Figure 4 in {arguments.folder}: leave out --out-plot")
        plot(panels, arguments.out_plot)
    if arguments.out is None:
        print(text, end="")
    else:
        atomic_write_text(arguments.out, text)


if __name__ == "__main__":
    main()
