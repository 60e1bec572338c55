"""Gradient descent leads to where the loss is sharp (§4.2, Figs. 2 and 14)."""
