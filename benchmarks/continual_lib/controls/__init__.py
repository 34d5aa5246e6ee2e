"""Memories the condensed one is compared with, in the same plugin at the same bytes.

Each fits the protocol of `avalanche_plugin.protocol.ReplayMemory` and keeps its stored
bytes within ``mem_bytes`` after every `observe`. Bytes are those of `tensors`: 8-bit
numbers, their scales, JPEG files. Class ids and the range of the data, a few bytes an
experience, are left out for all of them, as labels are for exemplar replay.
"""
