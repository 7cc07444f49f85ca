"""What both sides of data_throughput.py make: 8 batches of 64 images a call, 64 px a side."""

BATCH, BATCHES, SIZE = 64, 8, 64
