import pytest

from condense_core.cli.repeats import Repeats
from condense_core.training import resolve_recipe

QUESTION = {"seed": 0, "recipe": resolve_recipe("paper-300")}


@pytest.fixture
def report(tmp_path):
    return tmp_path / "report.json"


def test_accuracies_are_kept_by_network(report):
    repeats = Repeats(report, QUESTION)
    for network, accuracy in (("convnet", 0.1 + 0.2), ("mlp", 2.0), ("convnet", 1.0)):
        repeats.add(network, accuracy)
    again = Repeats(report, QUESTION)
    assert again.of("convnet") == (0.1 + 0.2, 1.0)
    assert again.of("mlp") == (2.0,)
    assert again.of("vgg11") == ()


def test_they_count_for_the_same_question_only(report):
    Repeats(report, QUESTION).add("convnet", 1.0)
    other = QUESTION | {"recipe": resolve_recipe("dsa-1000")}
    assert Repeats(report, other).of("convnet") == ()


def test_nothing_is_left_of_a_finished_report(report):
    repeats = Repeats(report, QUESTION)
    repeats.add("convnet", 1.0)
    repeats.close()
    assert list(report.parent.iterdir()) == []
    repeats.close()


def test_without_a_report_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    repeats = Repeats(None, {})
    repeats.add("convnet", 1.0)
    repeats.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", "[1]", "{}", "\x00"])
def test_a_file_of_somebody_else_is_not_read(report, content):
    report.with_name("report.json.partial").write_text(content)
    assert Repeats(report, QUESTION).of("convnet") == ()
