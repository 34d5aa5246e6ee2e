import pytest

from condense_core.cli.files import is_stored_set


@pytest.mark.parametrize(
    ("what", "stored"),
    [
        ("random", False),
        ("full", False),
        ("a.npz", True),
        ("a/b", True),
        ("odd", False),
    ],
)
def test_words_and_paths_are_told_apart(tmp_path, monkeypatch, what, stored):
    monkeypatch.chdir(tmp_path)
    assert is_stored_set(what) is stored
    (tmp_path / "odd").mkdir()
    assert is_stored_set("odd")
