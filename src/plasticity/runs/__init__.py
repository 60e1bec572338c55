"""The engine that runs and resumes experiments and proves that recorded runs still hold."""
