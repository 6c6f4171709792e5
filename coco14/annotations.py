"""Instance annotations in COCO's JSON form: which images there are, what each shows, and its label map."""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tool import VOID
from tool.cli import UserError
from voc12.classes import Classes
from voc12.lists import check_id, make_classes


class Annotations:
    """The annotations in a file such as instances_val2014.json.

    Attributes:
        classes: the categories in order of their ids: label c + 1 is the c-th of them.
        images: id, the name of the photo without ending -> COCO's number of it; those with an object or a crowd.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self._coco = _load(path)
        try:
            categories = sorted(self._coco.cats.values(), key=lambda category: category["id"])
            self.classes: Classes = make_classes([category["name"] for category in categories], str(path))
            self._class = {category["id"]: c for c, category in enumerate(categories)}
            numbers = sorted({found["image_id"] for found in self._coco.anns.values()})
            names = {number: self._coco.imgs[number]["file_name"] for number in numbers}
            self.images = {check_id(Path(name).stem, str(path)): number for number, name in names.items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path} holds no instance annotations of COCO's form ({error!r}): unpack it again"
            ) from error

    def label(self, image_id: str) -> np.ndarray:
        """Multi-hot label (C,) float32; crowds of a class count as well."""
        label = np.zeros(len(self.classes), np.float32)
        label[[self._class_of(found) for found in self._of(image_id)]] = 1
        return label

    def mask(self, image_id: str) -> np.ndarray:
        """Label map uint8 (H, W), 0 background, class + 1: the smaller of overlapping instances wins.

        Pixels of crowds are void where no instance is. Sizes are those of the decoded masks; of two equal ones the later one wins.
        """
        image = self._coco.imgs[self.images[image_id]]
        label = np.zeros((image["height"], image["width"]), np.uint8)
        instances = []
        for found in self._of(image_id):
            pixels = self._decode(found, label.shape)
            if found.get("iscrowd"):
                label[pixels] = VOID
            else:
                instances.append((pixels, self._class_of(found) + 1))
        for pixels, value in sorted(instances, key=lambda instance: -np.count_nonzero(instance[0])):
            label[pixels] = value
        return label

    def _of(self, image_id: str) -> Sequence[dict[str, Any]]:
        """In the order of their ids."""
        return sorted(self._coco.imgToAnns[self.images[image_id]], key=lambda found: found["id"])

    def _class_of(self, found: dict[str, Any]) -> int:
        if (number := self._class.get(found.get("category_id"))) is None:
            raise UserError(
                f"{self.path}: annotation {found['id']} is of category {found.get('category_id')}, which is not listed"
            )
        return number

    def _decode(self, found: dict[str, Any], shape: tuple[int, ...]) -> np.ndarray:
        """bool (H, W)."""
        try:
            pixels = self._coco.annToMask(found).astype(bool)
        except Exception as error:  # whatever a damaged polygon or run-length code makes of it
            raise UserError(f"{self.path}: annotation {found['id']} cannot be decoded ({error!r})") from error
        if pixels.shape != shape:
            raise UserError(f"{self.path}: annotation {found['id']} is of another size than its photo")
        return pixels


def _load(path: str | Path) -> Any:
    """pycocotools' index of the file. UserError: it is missing or no JSON, or pycocotools is."""
    try:
        from pycocotools.coco import COCO
    except ModuleNotFoundError as error:
        raise UserError("COCO's annotations are read with pycocotools: pip install -r requirements-coco.txt") from error
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it tells how long it takes
            return COCO(str(path))
    except OSError as error:
        raise UserError(f"cannot read the annotations {path}: {error.strerror}") from error
    except (ValueError, AssertionError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is damaged or holds no annotations of COCO's form: unpack it again") from error
