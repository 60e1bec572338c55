"""What the command line takes and prints; `plasticity.cli` puts it together."""
