"""The engine that runs experiments, resumes them and proves what they recorded."""
