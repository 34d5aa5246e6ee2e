"""Table and plot of the files that `continual.py` wrote; nothing is typed by hand.

    python benchmarks/continual_report.py runs/continual \
        --out-table docs/continual-results.md --out-plot docs/images/continual.png
"""

import argparse
from pathlib import Path

from continual_lib.report.groups import read_groups
from continual_lib.report.plot import plot
from continual_lib.report.table import table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what continual.py calls --out")
    parser.add_argument("--out-table", type=Path)
    parser.add_argument("--out-plot", type=Path)
    arguments = parser.parse_args()
    groups = read_groups(arguments.folder)
    text = table(groups)
    if arguments.out_table is None:
        print(text, end="")
    else:
        arguments.out_table.write_text(text)
    if arguments.out_plot is not None:
        plot(groups, arguments.out_plot)


if __name__ == "__main__":
    main()
