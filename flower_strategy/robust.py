"""Find generators that do not fit their peers: a check against crude poisoning.

For every class, the mean features of each client's images under a fixed random network
are compared with the median over all clients that have the class. Images of another
class, noise and constant images stand out clearly. The check cannot detect a backdoor,
which changes little of an image; colluding clients that are the majority in a class;
or anything in a class that fewer than three clients have. It also drops honest clients
whose images of a class really differ.

Shape legend: P clients that have a class, D features.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from condense_core.networks import build_network
from condense_core.seeding import make_generator
from flower_strategy.aggregation import Dropped, images_at_once
from flower_strategy.payload import Contribution

PEERS = 3  # a median of fewer says nothing
IMAGES = 64  # per client and class
WIDTH, SEED = 64, 0  # of the random network
MAD_TO_DEVIATION = 1.4826  # of a normal distribution
SMALLEST_SPREAD = 0.05  # times the median's norm: nearly equal peers stay


def outliers(
    contributions: Sequence[Contribution],
    threshold: float,
    *,
    image_shape: tuple[int, int, int],
    seed: int,
) -> Dropped:
    """(client, class) pairs farther from their peers' median than the threshold.

    Args:
        contributions: Of all clients.
        threshold: In robust deviations of the peers' distances. Start with 4: honest
            clients whose images have the same distribution stay below 2.
        image_shape: (C, H, W).
        seed: For drawing the images.
    """
    found = set()
    features = _features(contributions, image_shape, seed)
    for label in sorted({label for _, label in features}):
        clients = sorted(c for c, held in features if held == label)
        if len(clients) < PEERS:
            continue
        stacked_PD = torch.stack([features[client, label] for client in clients])
        centre_D = stacked_PD.median(dim=0).values
        distances_P = (stacked_PD - centre_D).norm(dim=1)
        middle = distances_P.median()
        spread = MAD_TO_DEVIATION * (distances_P - middle).abs().median()
        spread = spread.clamp_min(SMALLEST_SPREAD * float(centre_D.norm()))
        far = (distances_P - middle) / spread > threshold
        found |= {
            (client, label)
            for client, out in zip(clients, far.tolist(), strict=True)
            if out
        }
    return frozenset(found)


@torch.no_grad()
def _features(
    contributions: Sequence[Contribution], image_shape: tuple[int, int, int], seed: int
) -> dict[tuple[str, int], Tensor]:
    network = build_network(
        "convnet", image_shape=image_shape, num_classes=1, width=WIDTH, seed=SEED
    ).eval()
    features = {}
    for contribution in contributions:
        for local, label in enumerate(contribution.class_ids):
            rng = make_generator(seed, "robust", contribution.client, label)
            condensed = contribution.condensed
            at_once = min(IMAGES, images_at_once(condensed.spec))
            parts = [
                condensed.sample(at_once, classes=[local], fresh=True, generator=rng)
                for _ in range(-(-IMAGES // at_once))
            ]
            images = torch.cat([images for images, _ in parts])
            outputs = network.layer_features(2.0 * images - 1.0)
            # Instance norm hides brightness and contrast, so the pixels count too.
            means = [images.mean(0).flatten(), *(o.mean(0).flatten() for o in outputs)]
            features[contribution.client, label] = torch.cat(
                [mean / mean.numel() ** 0.5 for mean in means]
            )
    return features
