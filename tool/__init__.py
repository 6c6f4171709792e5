VOID = 255
"""Label of pixels that are ignored, such as object borders in ground truth: they do not count."""
