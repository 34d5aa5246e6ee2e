"""The example with images of one's own, with less training."""

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples" / "federated_own_images.py"


def test_sites_send_the_classes_that_their_own_code_reads(run_config, capsys):
    spec = importlib.util.spec_from_file_location("federated_own_images", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(**run_config)
    north, south = capsys.readouterr().out.splitlines()
    assert north.startswith("north: classes (0, 1, 2, 3, 4, 5), ")
    assert south.startswith("south: classes (4, 5, 6, 7, 8, 9), ")
