"""One of several processes of a run on the CPU; started by `test_distributed`.

python distributed_worker.py JOB.json RANK
"""

import json
import sys
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed

from condense_core.compute.distributed import Ranks
from condense_core.config import CondenseConfig
from condense_core.data import ImageData
from condense_core.runs.directory import RunDirectory
from condense_core.runs.run import condense_in


def condense_cases(job: dict, ranks: Ranks) -> None:
    """Condense the data of a job by each of its configurations."""
    torch.set_num_threads(1)
    pixels = torch.load(job["data"], weights_only=True)
    data = ImageData(**pixels, classes=tuple(job["classes"]), name="tiny")
    for name, values in job["cases"].items():
        config = CondenseConfig.from_dict(values)
        out = Path(job["out"]) / name
        run = RunDirectory.open(
            out if ranks.first else None, config, data.fingerprint()
        )
        made = condense_in(
            run, data, config, device=torch.device("cpu"), progress=False, ranks=ranks
        )
        torch.save(made.images()[0], Path(job["out"]) / f"{name}-{ranks.rank}.pt")


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    ranks = Ranks(int(sys.argv[2]), job["world"])
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{job['rendezvous']}",
        rank=ranks.rank,
        world_size=ranks.world,
        timeout=timedelta(seconds=60),
    )
    condense_cases(job, ranks)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
