"""What is measured of a network: the probe, curvature, units, ranks."""
