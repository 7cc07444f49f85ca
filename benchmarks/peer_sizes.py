"""Sizes on both sides of data_throughput.py: 8 batches of 64 images per call, 64 px a side."""

BATCH, BATCHES, SIZE = 64, 8, 64
