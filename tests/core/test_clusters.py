from itertools import product

import pytest
import torch

from condense_core.clusters import cluster_centres


def squared_error(points, centres):
    return torch.cdist(points, centres).amin(dim=1).square().sum().item()


@pytest.mark.parametrize("seed", range(5))
def test_cluster_centres_are_the_means_of_separable_blobs(seed, generator):
    middles = torch.tensor([[0.0, 0.0], [20.0, 0.0], [0.0, 30.0]])
    blobs = middles[:, None] + torch.randn(3, 7, 2, generator=generator)
    centres = cluster_centres(
        blobs.flatten(0, 1), 3, generator=torch.Generator().manual_seed(seed)
    )
    order = torch.cdist(middles, centres).argmin(dim=1)
    torch.testing.assert_close(centres[order], blobs.mean(dim=1))


def test_clusters_of_few_points_are_the_best_of_all_partitions():
    points = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [30.0], [31.0]])
    best = min(
        sum(
            (part - part.mean()).square().sum().item()
            for part in (points[torch.tensor(labels) == k] for k in range(3))
            if len(part)
        )
        for labels in product(range(3), repeat=len(points))
    )
    found = min(
        squared_error(
            points,
            cluster_centres(points, 3, generator=torch.Generator().manual_seed(seed)),
        )
        for seed in range(3)
    )
    assert found == pytest.approx(best)


def test_single_centre_is_the_mean(generator):
    points = torch.rand(9, 5, generator=generator)
    centre = cluster_centres(points, 1, generator=generator)
    torch.testing.assert_close(centre, points.mean(dim=0, keepdim=True))


def test_more_centres_than_points_are_points(generator):
    points = torch.rand(2, 5, generator=generator)
    centres = cluster_centres(points, 4, generator=generator)
    assert centres.shape == (4, 5)
    assert squared_error(points, centres) < 1e-9
    assert squared_error(centres, points) < 1e-9


def test_equal_points_give_equal_centres(generator):
    centres = cluster_centres(torch.ones(5, 3), 2, generator=generator)
    assert torch.equal(centres, torch.ones(2, 3))
