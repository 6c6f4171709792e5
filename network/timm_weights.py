"""Old name of network.weights, until its user has moved."""

from network.weights import IMAGENET

__all__ = ["IMAGENET"]
