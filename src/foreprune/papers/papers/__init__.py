"""What the figures of one paper share: its networks, data, densities and numbers of seeds."""
