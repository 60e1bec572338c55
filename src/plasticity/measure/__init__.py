"""What is measured about a network: the probe, curvature, units, ranks."""
