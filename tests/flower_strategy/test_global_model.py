import torch

from flower_strategy.aggregation import image_counts, synthesise
from flower_strategy.global_model import initial_model, train_global
from flower_strategy.settings import ModelSettings, ServerSettings

CLASSES, SHAPE = ("ant", "bee", "cat", "dog"), (1, 8, 8)


def test_the_first_weights_depend_on_settings_alone():
    model = ModelSettings(network_width=4, device="cpu")
    one, two = (initial_model(model, SHAPE, 4).state_dict() for _ in range(2))
    torch.testing.assert_close(one, two)


def test_training_moves_the_weights_without_a_global_draw(contribute):
    pair = [contribute("a", (0, 2)), contribute("b", (2, 3))]
    data = synthesise(pair, image_counts(pair, 100), classes=CLASSES, seed=0)
    settings = ServerSettings(train_steps=3, augment="none")
    network = initial_model(ModelSettings(network_width=4), SHAPE, 4)
    before = [parameter.clone() for parameter in network.parameters()]
    state = torch.get_rng_state()
    train_global(network, data, data.statistics(), settings, seed=0, device="cpu")
    assert any(
        not torch.equal(old, new)
        for old, new in zip(before, network.parameters(), strict=True)
    )
    assert torch.equal(torch.get_rng_state(), state)
