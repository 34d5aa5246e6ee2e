import subprocess
import sys

import pytest

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
