"""Old name of a part of voc12.images."""

from voc12.images import explain as explain
from voc12.images import labels_of_colours as values_of_colours  # noqa: F401
