"""The Markdown table."""

import statistics

from continual_lib.report.groups import Group
from continual_lib.rows import DATASETS, label_of

HEADER = (
    "| row | budget, bytes | stored, bytes | accuracy, % | forgetting, % "
    "| seconds | of which memory | seeds |"
)


def table(groups: list[Group]) -> str:
    """The Markdown table, one section a data set."""
    lines = [
        "<!-- written by benchmarks/continual_report.py; do not edit -->",
        "",
        "Mean ± sample standard deviation over seeds (order of the classes,",
        "initialisation, batches). Bytes are the most that was stored.",
    ]
    dataset = None
    for group in groups:
        if group.dataset != dataset:
            dataset = group.dataset
            lines += ["", f"### {DATASETS[dataset]}", "", _conditions(groups, dataset)]
            lines += ["", HEADER, "|---|" + "---:|" * 7]
        lines.append(_line(group))
    return "\n".join(lines) + "\n"


def _conditions(groups: list[Group], dataset: str) -> str:
    runs = [run for group in groups if group.dataset == dataset for run in group.runs]
    config = runs[0]["config"]
    threads = sorted(
        {
            f"{run['threads']} thread{'s' * (run['threads'] > 1)} on {run['device']}"
            for run in runs
        }
    )
    text = (
        f"{config['experiences']} experiences, {config['network']}, "
        f"{config['epochs']} epochs, batch {config['batch_size']}, "
        f"Adam {config['lr']:g}; {', '.join(threads)}."
    )
    if config["limit"] is not None:
        text += f" **Only {config['limit']} training images a class.**"
    return text


def _line(group: Group) -> str:
    budget = "–" if group.mem_bytes is None else f"{group.mem_bytes:,}"
    condensing = statistics.mean(group.values("seconds_condensing"))
    cells = [
        label_of(group.row),
        budget,
        f"{group.stored:,.0f}",
        spread(group.values("accuracy"), 100),
        spread(group.values("forgetting"), 100),
        f"{statistics.mean(group.values('seconds')):.0f}",
        f"{condensing:.0f}" if condensing else "–",
        str(len(group.runs)),
    ]
    return "| " + " | ".join(cells) + " |"


def spread(values: list[float], scale: float = 1.0) -> str:
    """Mean ± sample standard deviation; a dash where there is nothing to say."""
    if not values:
        return "–"
    mean = f"{scale * statistics.mean(values):.1f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {scale * statistics.stdev(values):.1f}"
