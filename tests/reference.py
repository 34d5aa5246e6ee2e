"""Every loss as the paper writes it: loops over Python floats, no stable rewriting.

Slow on purpose, and independent of the library: the tests compare the two. Where the
library takes a mean in place of the paper's sum, or unit vectors in place of raw ones,
so does the reference, and the docstring says so.
"""

import math
from itertools import permutations


def _rows(tensor):
    return tensor.double().tolist()


def _mean(values):
    values = list(values)
    return sum(values) / len(values)


def _dot(left, right):
    return sum(a * b for a, b in zip(left, right, strict=True))


def _distance(left, right):
    return math.sqrt(sum((a - b) ** 2 for a, b in zip(left, right, strict=True)))


def _unit(vector):
    length = math.sqrt(_dot(vector, vector))
    return [value / length for value in vector]


def _centre(vectors):
    return [_mean(column) for column in zip(*vectors, strict=True)]


def _sigmoid(logit):
    return 1 / (1 + math.exp(-logit))


def adversarial_value(real_logits, synthetic_logits):
    """L_adv of Eq. 1, which D maximises: E[log D(x)] + E[log(1 - D(x~))]."""
    real = _mean(math.log(_sigmoid(logit)) for logit in _rows(real_logits))
    return real + saturating_value(synthetic_logits)


def saturating_value(synthetic_logits):
    """The part of Eq. 1 that G minimises: E[log(1 - D(x~))]."""
    return _mean(math.log(1 - _sigmoid(logit)) for logit in _rows(synthetic_logits))


def non_saturating_value(synthetic_logits):
    """What G minimises instead: -E[log D(x~)]."""
    return -_mean(math.log(_sigmoid(logit)) for logit in _rows(synthetic_logits))


def classification(logits, targets):
    """L_c: mean of -sum_y p_y log softmax_y, p one-hot for class ids."""
    losses = []
    for row, target in zip(_rows(logits), targets.tolist(), strict=True):
        total = sum(math.exp(logit) for logit in row)
        logs = [math.log(math.exp(logit) / total) for logit in row]
        losses.append(
            -_dot(target, logs) if isinstance(target, list) else -logs[target]
        )
    return _mean(losses)


def matching(synthetic_layers, real_means, *, mode, layer_weights=None):
    """L_f of Eq. 2: squares summed over layers, averaged over all else."""
    total = 0.0
    weights = layer_weights or [1.0] * len(synthetic_layers)
    for weight, layer, mean in zip(weights, synthetic_layers, real_means, strict=True):
        squares = []
        for images, target in zip(layer.flatten(2), mean.flatten(1), strict=True):
            images = _rows(images)
            for feature in [_centre(images)] if mode == "class_mean" else images:
                squares += [
                    (a - b) ** 2 for a, b in zip(feature, _rows(target), strict=True)
                ]
        total += weight * _mean(squares)
    return total


def paired_matching(synthetic_layers, real_layers):
    """L_f of Eq. 2 between pairs, each layer in units of its real variance."""
    total = 0.0
    for layer, real in zip(synthetic_layers, real_layers, strict=True):
        values, targets = layer.flatten().tolist(), real.flatten().tolist()
        mean = _mean(targets)
        variance = _mean([(target - mean) ** 2 for target in targets])
        squares = [(a - b) ** 2 for a, b in zip(values, targets, strict=True)]
        total += _mean(squares) / variance
    return total


def intra_class(features, centres, *, tau):
    """L_intra of Eq. 3 on unit vectors, averaged over the images.

    Without centres the positive pair is left out: log of the sum over negatives.
    """
    losses = []
    for label, images in enumerate(_rows(features)):
        unit = [_unit(image) for image in images]
        for k, image in enumerate(unit):
            others = [other for i, other in enumerate(unit) if i != k]
            negatives = sum(math.exp(_dot(image, other) / tau) for other in others)
            if centres is None:
                losses.append(math.log(negatives))
                continue
            centre = _unit(_rows(centres)[label])
            positive = math.exp(_dot(image, centre) / tau)
            losses.append(-math.log(positive / (negatives + positive)))
    return _mean(losses)


def inter_class(features, *, margin, real_means=None):
    """L_inter of Eq. 4 over ordered pairs of classes, averaged over them.

    With real means the margin is in multiples of their mean distance.
    """
    if real_means is not None:
        real = _rows(real_means)
        margin *= _mean(_distance(a, b) for a, b in permutations(real, 2))
    centres = [_centre(images) for images in _rows(features)]
    return _mean(max(margin - _distance(a, b), 0) for a, b in permutations(centres, 2))


def gradient_matching(synthetic_layers, real_layers):
    """1 - cosine of every output's gradient (Eq. 5 and 6 of Zhao et al. 2021).

    Summed over layers, averaged over classes and outputs.
    """
    total = 0.0
    for synthetic, real in zip(synthetic_layers, real_layers, strict=True):
        pairs = zip(
            _rows(synthetic.flatten(0, 1)), _rows(real.flatten(0, 1)), strict=True
        )
        total += _mean(1 - _dot(_unit(a), _unit(b)) for a, b in pairs)
    return total


def slow_blur(images, sigma):
    """Pixel by pixel, the image mirrored at its edges without repeating them."""
    height, width = images.shape[-2:]
    radius = math.ceil(3 * sigma)
    weights = [math.exp(-(k**2) / (2 * sigma**2)) for k in range(-radius, radius + 1)]
    weights = [weight / sum(weights) for weight in weights]

    def mirrored(place, size):
        place = abs(place)
        return place if place < size else 2 * (size - 1) - place

    result = images * 0.0
    for y in range(height):
        for x in range(width):
            for i, down in enumerate(weights):
                for j, right in enumerate(weights):
                    source_y = mirrored(y + i - radius, height)
                    source_x = mirrored(x + j - radius, width)
                    result[..., y, x] += down * right * images[..., source_y, source_x]
    return result
