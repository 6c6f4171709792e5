"""Old names of network.weights, until their users have moved."""

from network.weights import LoadReport, read_checkpoint

__all__ = ["LoadReport", "read_checkpoint"]
