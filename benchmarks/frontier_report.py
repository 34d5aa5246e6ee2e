"""Table and plot of the files that `frontier.py` wrote; nothing is typed by hand.

    python benchmarks/frontier_report.py runs/frontier \
        --out-table docs/frontier-results.md --out-plot docs/images/frontier.png
"""

import argparse
from pathlib import Path

from frontier_lib.report import plot, read, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what frontier.py calls --out")
    parser.add_argument("--out-table", type=Path)
    parser.add_argument("--out-plot", type=Path)
    arguments = parser.parse_args()
    frontier = read(arguments.folder)
    if arguments.out_table is None:
        print(table(frontier), end="")
    else:
        arguments.out_table.write_text(table(frontier))
    if arguments.out_plot is not None:
        plot(frontier, arguments.out_plot)


if __name__ == "__main__":
    main()
