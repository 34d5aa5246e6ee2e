"""One-shot federated condensation with Flower: clients send generators, not gradients.

Nothing is imported here, so that `flower_strategy.partition` and
`flower_strategy.privacy` can be used without Flower.
"""
