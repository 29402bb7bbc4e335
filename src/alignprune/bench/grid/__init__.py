"""Grids of runs: cells, the experiments made of them, and the sweeps that run them."""
