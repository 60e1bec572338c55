"""What the chapters that probe agents share."""
