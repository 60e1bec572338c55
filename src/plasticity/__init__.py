"""Measure how much of its ability to learn a neural network has left.

The package behind an executable companion to Lyle et al. (2023), *Understanding Plasticity in
Neural Networks*. Modules are small and flat; import the one you need::

    from plasticity import network_statistics, optimizers

Importing the package itself costs nothing and reads no data.
"""

__version__ = "0.1.0"
