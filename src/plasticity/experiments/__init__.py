"""The experiments, one module each: what is run, with every setting in one place.

Each module keeps the contract of `plasticity.driver.Experiment`. Nothing registers them: the
command line lists the modules of this folder.
"""
