"""How and where things are computed, whatever is computed.

Devices, precision, CUDA graphs, many processes, memory.
"""
