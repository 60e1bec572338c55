"""Networks, from single layers to the architectures of the papers."""
