"""Real runs, killed at random moments and resumed: are the bits those of a run left alone?

`scenes` has the commands and what they must leave, `ways` how they are killed, `trials` does both
and compares, ``hook`` is what kills from inside. ``make kills`` takes a hundred and records them
in ``outcome.csv`` and ``outcome.json``; `tests/runs/test_kills.py` takes ten.
"""
