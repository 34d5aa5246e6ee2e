"""The objectives that one step of the loop minimises.

`feature` is the paper's L_con, gradient matching included; `trajectory` and `unrolled`
train students of the synthetic set, the latter through a differentiable `window`.
"""
