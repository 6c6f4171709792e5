"""Old name of a part of voc12.labels."""

from voc12.labels import CSV_FILE as CSV_FILE
from voc12.labels import image_id_of as image_id_of
from voc12.labels import read_label_csv as read_label_csv
