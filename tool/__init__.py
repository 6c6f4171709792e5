VOID = 255
"""Label of pixels that belong to no label, such as object borders in ground truth: they do not count."""
