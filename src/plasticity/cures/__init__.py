"""What keeps a network plastic."""
