"""What plasticity is, and how to measure it (§2.2, §3.1, A.2)."""
