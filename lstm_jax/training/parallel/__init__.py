"""Devices and processes: the mesh, and the sharding of each array."""
