"""Old names of tool.torch_file, until their users have moved."""

from tool.torch_file import open_weights, read_torch_file

__all__ = ["open_weights", "read_torch_file"]
