"""What learns: losses, replay buffers, optimizers, agents."""
