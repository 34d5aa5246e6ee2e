import re
import subprocess
import sys
from pathlib import Path

import pytest

import condense_core

CORE = Path(condense_core.__file__).parent

HEAVY = ("torchvision", "avalanche", "flwr", "sklearn", "matplotlib", "PIL")
OTHERS = ("avalanche_plugin", "flower_strategy")


def modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in done.stdout.split()}


@pytest.fixture(scope="module")
def after_core() -> set[str]:
    return modules_after(
        "import condense_core, condense_core.cli\n"
        "from condense_core.artefact.precision import encoded_layout\n"
        "from condense_core.synthesiser import SynthesiserSpec\n"
        "sizes = {'num_classes': 2, 'images_per_class': 2, 'image_shape': (1, 8, 8)}\n"
        "encoded_layout(SynthesiserSpec(kind='generator', **sizes), 'fp32')"
    )


def test_the_core_was_imported(after_core):
    assert {"condense_core", "torch", "numpy", "yaml", "safetensors"} <= after_core


@pytest.mark.parametrize("name", [*HEAVY, *OTHERS])
def test_importing_the_core_leaves_out(after_core, name):
    assert name not in after_core


def test_checking_an_artefact_needs_no_compiler(after_core):
    # A draw on the meta device would import it: seconds, for every file that is opened.
    assert "sympy" not in after_core


def test_every_module_can_be_imported_without_the_extras():
    code = (
        "import importlib, pkgutil, condense_core\n"
        f"for name in {HEAVY!r}: sys.modules[name] = None\n"
        "path = condense_core.__path__\n"
        "for found in pkgutil.walk_packages(path, 'condense_core.'):\n"
        "    if not found.name.endswith('__main__'):\n"
        "        importlib.import_module(found.name)"
    )
    assert "condense_core" in modules_after(code)


def test_packages_of_the_core_depend_on_each_other_in_one_direction():
    edges = set()
    for path in CORE.rglob("*.py"):
        package = path.relative_to(CORE).parts[0].removesuffix(".py")
        for line in path.read_text("utf-8").splitlines():
            found = re.match(r"from condense_core\.(\w+)[\w.]* import", line)
            if found and found[1] != package:
                edges.add((package, found[1]))
    assert ("runs", "engine") in edges
    while edges:  # take away whatever imports nothing that is left
        targets = {target for _, target in edges}
        leaves = targets - {package for package, _ in edges}
        assert leaves, f"a circle among {sorted(targets)}"
        edges = {edge for edge in edges if edge[1] not in leaves}
