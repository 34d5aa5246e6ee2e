"""Indices are those of flwr-datasets: frozen ones always, fresh ones if installed."""

import numpy as np
import pytest

from condense_core.errors import ConfigError, DataError
from flower_strategy.partition import (
    classes_per_client,
    dirichlet,
    iid,
    partition,
)

LABELS = np.arange(60) * 7 % 60 // 15  # four classes of 15, mixed
MANY = np.random.default_rng(0).integers(0, 10, 5000)


def rows(text):
    return [[int(number) for number in row.split()] for row in text.split("|")]


# Computed with flwr-datasets 0.6.1 and NumPy 2.4 on LABELS.
DIRICHLET_HALF = rows("""
    37 21 6 46 11 5 10 29 12 4 8 3 1 45 20 7 9 13 38 28 2 0 |
    43 33 26 52 16 35 23 14 25 34 17 15 42 27 24 44 36 18 41 50 19 22 |
    53 47 40 30 49 59 56 31 48 58 54 55 57 39 51 32
""")
TWO_CLASSES_SEED_1 = rows("""
    3 5 38 4 12 29 28 54 55 46 22 37 14 20 21 6 13 11 45 47 |
    30 0 39 31 1 9 2 32 10 23 |
    56 7 48 16 49 8 57 40 17 15 |
    33 24 34 35 18 25 19 26 27 41 |
    53 36 59 42 58 51 52 44 50 43
""")


def lists(parts):
    return [part.tolist() for part in parts]


def assert_disjoint(parts, total):
    joined = np.concatenate(parts)
    assert all(part.dtype == np.int64 for part in parts)
    assert sorted(joined.tolist()) == list(range(total))


def test_frozen_dirichlet():
    assert lists(dirichlet(LABELS, 3, 0.5)) == DIRICHLET_HALF


def test_frozen_classes():
    assert lists(classes_per_client(LABELS, 5, 2, seed=1)) == TWO_CLASSES_SEED_1


def test_iid_parts_are_of_equal_size():
    parts = iid(7, 3)
    assert [len(part) for part in parts] == [3, 2, 2]
    assert_disjoint(parts, 7)


def theirs(partitioner, labels, shuffle=None):
    """Indices of a partitioner of flwr-datasets, without its warnings."""
    datasets = pytest.importorskip("datasets")
    columns = {"idx": np.arange(len(labels)), "label": labels}
    data = datasets.Dataset.from_dict(columns)
    partitioner.dataset = data if shuffle is None else data.shuffle(seed=shuffle)
    parts = range(partitioner.num_partitions)
    return [partitioner.load_partition(part)["idx"][:] for part in parts]


@pytest.mark.parametrize("clients", [1, 7, 10])
@pytest.mark.parametrize("seed", [0, 42])
def test_iid_is_that_of_flwr_datasets(clients, seed):
    flwr = pytest.importorskip("flwr_datasets.partitioner")
    expected = theirs(flwr.IidPartitioner(clients), MANY, shuffle=seed)
    assert lists(iid(len(MANY), clients, seed=seed)) == expected


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("clients", "alpha", "seed"),
    [(5, 0.5, 42), (10, 0.1, 42), (10, 0.3, 1), (20, 1.0, 2), (50, 0.5, 3), (8, 9, 4)],
)
def test_dirichlet_is_that_of_flwr_datasets(clients, alpha, seed):
    flwr = pytest.importorskip("flwr_datasets.partitioner")
    other = flwr.DirichletPartitioner(clients, "label", alpha, seed=seed)
    ours = dirichlet(MANY, clients, alpha, seed=seed)
    assert lists(ours) == theirs(other, MANY)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("scheme", ["dirichlet-0.1", "dirichlet-1", "dirichlet-0.5"])
def test_the_default_dirichlet_is_that_of_flwr_datasets(scheme):
    flwr = pytest.importorskip("flwr_datasets.partitioner")
    alpha = float(scheme.removeprefix("dirichlet-"))
    other = flwr.DirichletPartitioner(10, "label", alpha, seed=5)
    assert lists(partition(MANY, 10, scheme, seed=5)) == theirs(other, MANY)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("clients", "k"), [(10, 2), (3, 1), (40, 3), (5, 10)])
@pytest.mark.parametrize("seed", [0, 42])
def test_classes_are_those_of_flwr_datasets(clients, k, seed):
    flwr = pytest.importorskip("flwr_datasets.partitioner")
    other = flwr.PathologicalPartitioner(clients, "label", k, seed=seed)
    ours = classes_per_client(MANY, clients, k, seed=seed)
    assert lists(ours) == theirs(other, MANY)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_success_at_the_last_draw_is_that_of_flwr_datasets(monkeypatch):
    """With seed 14 only the eleventh draw gives everyone 220 images."""
    flwr = pytest.importorskip("flwr_datasets.partitioner")
    other = flwr.DirichletPartitioner(10, "label", 0.3, 220, seed=14)
    monkeypatch.setattr("flower_strategy.partition.MIN_SIZE", 220)
    ours = dirichlet(MANY, 10, 0.3, seed=14)
    assert lists(ours) == theirs(other, MANY)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_both_give_up(monkeypatch):
    flwr = pytest.importorskip("flwr_datasets.partitioner")
    other = flwr.DirichletPartitioner(10, "label", 0.3, 400, seed=14)
    with pytest.raises(ValueError, match="max number of attempts"):
        theirs(other, MANY)
    monkeypatch.setattr("flower_strategy.partition.MIN_SIZE", 400)
    with pytest.raises(ConfigError, match="none of 11 Dirichlet draws"):
        dirichlet(MANY, 10, 0.3, seed=14)


@pytest.mark.parametrize("scheme", ["iid", "dirichlet-0.5", "classes-3"])
def test_partitions_are_disjoint_and_cover_all(scheme):
    assert_disjoint(partition(MANY, 12, scheme, seed=3), len(MANY))


@pytest.mark.parametrize("scheme", ["iid", "dirichlet-0.5", "classes-3"])
def test_the_seed_decides(scheme):
    one, two, other = (lists(partition(MANY, 12, scheme, seed=s)) for s in (3, 3, 4))
    assert one == two != other


def test_no_global_draw():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    for scheme in ("iid", "dirichlet-0.5", "classes-3"):
        partition(MANY, 12, scheme)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_every_client_has_exactly_k_classes():
    parts = classes_per_client(MANY, 12, 3)
    assert {len(np.unique(MANY[part])) for part in parts} == {3}


def test_classes_nobody_draws_are_named():
    with pytest.warns(UserWarning, match="no client has the classes"):
        parts = classes_per_client(MANY, 2, 1)
    assert len(np.unique(MANY[np.concatenate(parts)])) == 2


def test_labels_need_not_start_at_zero():
    shifted = lists(dirichlet(LABELS * 5 - 3, 3, 0.5))
    assert shifted == DIRICHLET_HALF


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        ("shards-2", "unknown partition scheme"),
        ("iid-3", "unknown partition scheme"),
        ("", "unknown partition scheme"),
        ("dirichlet", "has no number"),
        ("dirichlet-low", "has no number"),
        ("classes-1.5", "has no number"),
        ("dirichlet--1", "alpha is -1.0"),
        ("dirichlet-0", "alpha is 0.0"),
        ("dirichlet-nan", "alpha is nan"),
        ("dirichlet-inf", "alpha is inf"),
        ("classes-0", "choose 1 to 4"),
        ("classes-5", "choose 1 to 4"),
    ],
)
def test_a_wrong_scheme_is_one_line(scheme, message):
    with pytest.raises(ConfigError, match=message) as caught:
        partition(LABELS, 3, scheme)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["iid", "dirichlet-0.5", "classes-2"])
@pytest.mark.parametrize("clients", [0, -1, 61])
def test_clients_that_do_not_fit_the_images(scheme, clients):
    with pytest.raises(ConfigError, match="cannot be split over"):
        partition(LABELS, clients, scheme)


def test_more_images_asked_for_than_there_are():
    with pytest.raises(ConfigError, match="cannot have 10 of 60 images"):
        dirichlet(LABELS, 7, 0.5)


def test_a_size_that_is_never_drawn_is_given_up():
    with pytest.raises(ConfigError, match="none of 11 Dirichlet draws"):
        dirichlet(LABELS, 6, 0.01)


def test_more_clients_than_images_of_a_class():
    with pytest.raises(ConfigError, match="class 1 has 1 images for 3 clients"):
        classes_per_client([0, 0, 0, 1], 3, 2)


@pytest.mark.parametrize("labels", [[], [[0, 1]], [0.0, 1.0], ["cat"]])
def test_labels_that_are_not_integers(labels):
    with pytest.raises(DataError, match="give one integer per image"):
        partition(labels, 1, "iid")
