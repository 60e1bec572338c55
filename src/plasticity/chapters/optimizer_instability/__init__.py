"""Abrupt changes of task make Adam kill its own units (§4.1, A.1, Fig. 1)."""
