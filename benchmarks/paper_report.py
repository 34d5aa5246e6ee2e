"""docs/results.md from the files that `paper_tables.py` wrote; nothing typed by hand.

Figure 4 is drawn from the run directories, which are not kept with the results: where
the folder has none, a picture that was drawn before stays.

    python benchmarks/paper_report.py runs/paper --out docs/results.md \
        --out-plot docs/images/figure4.png
"""

import argparse
import os
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
    picture = None
    if arguments.out_plot is not None:
        panels = read_panels(arguments.folder)
        if panels:
            plot(panels, arguments.out_plot)
        elif not arguments.out_plot.exists():
            sys.exit(f"no run of Figure 4 in {arguments.folder}: leave out --out-plot")
        page = Path() if arguments.out is None else arguments.out.parent
        picture = Path(os.path.relpath(arguments.out_plot, page)).as_posix()
    text = report(Results.read(arguments.folder), picture)
    if arguments.out is None:
        print(text, end="")
    else:
        atomic_write_text(arguments.out, text)


if __name__ == "__main__":
    main()
