"""Table and plot of the files that `federated.py` wrote; nothing is typed by hand.

    python benchmarks/federated_report.py docs/results/federated \
        --out-table docs/federated-results.md --out-plot docs/images/federated.png
"""

import argparse
from pathlib import Path

from federated_lib.report import plot, read_lines, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what federated.py calls --out")
    parser.add_argument("--out-table", type=Path)
    parser.add_argument("--out-plot", type=Path)
    arguments = parser.parse_args()
    lines = read_lines(arguments.folder)
    if arguments.out_table is None:
        print(table(lines), end="")
    else:
        arguments.out_table.write_text(table(lines))
    if arguments.out_plot is not None:
        plot(lines, arguments.out_plot)


if __name__ == "__main__":
    main()
