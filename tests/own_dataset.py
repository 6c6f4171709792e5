"""Drawn photos with own classes, as a user has them: sub-folders, odd endings, a table of labels."""

from pathlib import Path

import numpy as np
from PIL import Image

from voc12.images import save_label

ENDINGS = (".jpg", ".JPG", ".jpeg", ".Png")


def names(count: int) -> list[str]:
    """Return names in alphabetical order, that of their labels."""
    return [f"Ding {c:02d}" for c in range(count)]


def image_id(number: int) -> str:
    return f"Foto ä, Nr {number}"


def draw(folder: Path, classes: int, photos: int) -> None:
    """Write in/<two sub-folders>, labels.csv and masks/ in `folder`; photo n shows class n % classes and the next one."""
    rng, rows = np.random.default_rng(0), ["Filename,Labels"]
    (folder / "masks").mkdir()
    for n in range(photos):
        shown, mask = (n % classes, (n + 1) % classes), np.zeros((40, 48), np.uint8)
        mask[8:32, 4:22], mask[8:32, 26:44] = shown[0] + 1, shown[1] + 1
        pixels = mask[..., None] * np.array([37, 91, 151]) % 236 + rng.integers(0, 20, (40, 48, 3))
        path = folder / "in" / ("a" if n % 2 else "b/c") / f"{image_id(n)}{ENDINGS[n % 4]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
        rows.append(f'"{path.relative_to(folder / "in")}",{";".join(names(classes)[c].upper() for c in shown)}')
        save_label(folder / "masks" / f"{image_id(n)}.png", mask)
    (folder / "labels.csv").write_text("\n".join(rows), encoding="utf-8-sig")
