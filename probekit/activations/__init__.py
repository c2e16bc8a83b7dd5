"""Capture residual-stream activations per layer and position and keep them in HDF5."""
