import pytest
import torch

from condense_core.class_embedding import (
    class_mean_features,
    one_hot_embedding,
    standardise,
)
from condense_core.data import as_image_data
from condense_core.networks import build_network


@pytest.mark.parametrize("batch_size", [7, 512])
def test_class_means_match_a_loop_over_images(batch_size, tiny_images, device):
    images, labels = tiny_images
    keep = torch.arange(30) % 10 < torch.tensor([3, 10, 1])[labels]  # unequal classes
    order = torch.randperm(int(keep.sum()), generator=torch.Generator().manual_seed(1))
    data = as_image_data((images[keep][order], labels[keep][order]))
    statistics = data.statistics()
    network = build_network(
        "convnet", image_shape=(1, 8, 8), num_classes=3, width=4, seed=0
    )
    sums, counts = torch.zeros(3, 4), torch.zeros(3)
    with torch.no_grad():
        for image, label in zip(data.images, data.labels, strict=True):
            normalised = (image[None] / 255 - statistics.mean[0]) / statistics.std[0]
            feature = network.layer_features(normalised)[-1]
            sums[label] += feature[0].mean(dim=(1, 2))
            counts[label] += 1
    means = class_mean_features(
        network.to(device), data.to(device), statistics, batch_size=batch_size
    )
    assert not means.requires_grad
    torch.testing.assert_close(
        means.cpu(), sums / counts[:, None], atol=2e-3, rtol=1e-2
    )


def test_standardised_embeddings_have_mean_zero_and_variance_one(generator):
    means = 5 + torch.rand(6, 4, generator=generator)
    embedding = standardise(means)
    torch.testing.assert_close(embedding.mean(dim=0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(embedding.var(dim=0, correction=0), torch.ones(4))


def test_a_constant_feature_and_a_single_class_map_to_zero():
    means = torch.tensor([[1.0, 2.0], [3.0, 2.0]])
    assert torch.equal(standardise(means), torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    assert torch.equal(standardise(means[:1]), torch.zeros(1, 2))


def test_one_hot_embedding_is_the_identity():
    assert one_hot_embedding(3).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
