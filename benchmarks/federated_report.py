"""Tables and plot of what `federated.py` and `one_client.py` wrote.

    python benchmarks/federated_report.py docs/results/federated \
        --one-client docs/results/one-client \
        --out-table docs/federated-results.md --out-plot docs/images/federated.png
"""

import argparse
from pathlib import Path

from federated_lib.one_client_report import one_client_table
from federated_lib.report import plot, read_lines, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what federated.py calls --out")
    parser.add_argument("--one-client", type=Path, help="what one_client.py calls it")
    parser.add_argument("--out-table", type=Path)
    parser.add_argument("--out-plot", type=Path)
    arguments = parser.parse_args()
    lines = read_lines(arguments.folder)
    text = table(lines)
    if arguments.one_client is not None:
        text += one_client_table(arguments.one_client)
    if arguments.out_table is None:
        print(text, end="")
    else:
        arguments.out_table.write_text(text)
    if arguments.out_plot is not None:
        plot(lines, arguments.out_plot)


if __name__ == "__main__":
    main()
