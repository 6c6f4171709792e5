"""Looking at all files that a run will read, before its first second of work: whether they are there, and what their headers say."""

import sys
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from tool import ranks
from tool.cli import UserError, counted, nearest_path
from voc12.folders import LABEL_ENDINGS, PHOTO_ENDINGS, SALIENCY_ENDINGS, files_of, find_file, photos_below
from voc12.images import LABEL_FORMATS, PHOTO_FORMATS, size_of
from voc12.lists import deeper_devkit

FIRST = 10  # bad photos that an error lists


@dataclass(frozen=True)
class Input:
    """A folder with a file of each image. `formats`: of pictures; None where only their presence is looked at."""

    what: str
    folder: Path
    endings: tuple[str, ...]
    formats: tuple[str, ...] | None = None


def photos(folder: str | Path) -> Input:
    """Photos; `folder` is the devkit's JPEGImages or one like it."""
    return Input("photo", Path(folder), PHOTO_ENDINGS, PHOTO_FORMATS)


def saliency_maps(folder: str | Path) -> Input:
    return Input("saliency map", Path(folder), SALIENCY_ENDINGS, PHOTO_FORMATS)


def grey_masks(folder: str | Path, what: str = "mask") -> Input:
    """Masks of what is salient."""
    return Input(what, Path(folder), SALIENCY_ENDINGS, PHOTO_FORMATS)


def label_maps(folder: str | Path, what: str = "label map") -> Input:
    return Input(what, Path(folder), LABEL_ENDINGS, LABEL_FORMATS)


def score_files(folder: str | Path) -> Input:
    """Class maps or CRF probabilities, .npy."""
    return Input("score file", Path(folder), (".npy",))


def check_folder(one: Input) -> None:
    """UserError where the folder holds no such file at all, with a look at what it holds instead."""
    if files_of(one.folder, one.endings) or (one.endings == PHOTO_ENDINGS and photos_below(one.folder)):
        return
    if not one.folder.is_dir():
        raise UserError(f"{one.folder} is no folder{nearest_path(one.folder)}: name the folder of the {one.what}s")
    kinds = Counter(path.suffix for path in one.folder.iterdir() if path.suffix and not path.name.startswith("."))
    found = "".join(f"; it holds {counted(number, f'files ({kind})')}" for kind, number in kinds.most_common(1))
    wanted, hint = f"<id>{', <id>'.join(one.endings)}", f"name the folder of the {one.what}s"
    if one.endings == PHOTO_ENDINGS:
        hint = deeper_devkit(one.folder, hint)
    raise UserError(f"{one.folder} holds no {one.what} ({wanted}){found}; {hint}")


def check_inputs(ids: Collection[str], inputs: Sequence[Input]) -> list[tuple[str, str]]:
    """(id, message) of each image of which a file is missing, there twice, empty, cut off, of another format
    or another size than the first.

    Sizes are those of the upright pictures. No more than header and end are read where these tell: about 0.1 ms
    a file on a local disk. `report.summarize_problems` makes one message of what is returned. UserError: as `check_folder`.
    """
    problems = []
    for one in inputs if ids else ():
        check_folder(one)
    for image_id in dict.fromkeys(ids):
        try:
            check_files(image_id, inputs)
        except UserError as error:
            problems.append((image_id, str(error)))
    return problems


def check_files(image_id: str, inputs: Sequence[Input]) -> None:
    """UserError naming the first of the image's files that cannot be used."""
    first = None
    for one in inputs:
        path = find_file(one.folder, image_id, one.endings)
        if one.formats is None:
            if not path.exists():
                raise UserError(f"{one.what} {path} does not exist")
            if path.is_file() and path.stat().st_size == 0:
                raise UserError(f"{one.what} {path} is empty (0 bytes): copy or make it again")
            continue
        height, width = size_of(path, one.what, one.formats)
        first = first or (one.what, height, width)
        if (height, width) != first[1:]:
            remedy = (
                "resize it" if one.formats == PHOTO_FORMATS else "resize it without mixing values (nearest neighbour)"
            )
            raise UserError(
                f"{one.what} {path} is {width}x{height} pixels, its {first[0]} {first[2]}x{first[1]}: {remedy}"
            )


def sound_ids(
    ids: list[str], check: Callable[[str], object], listed_in: str, skip_errors: bool
) -> tuple[list[str], list[str]]:
    """The photos to train on, and those left out, all of whose files were looked at: `check` raises UserError for a bad one.

    UserError: some are bad, unless `skip_errors` is set and others are left. Bad ones are listed on stderr, the first ten of an error.
    """

    def problem(image_id: str) -> str | None:
        try:
            check(image_id)
        except UserError as error:
            return str(error)
        return None

    bad: dict[str, str] = {}
    if ranks.is_main_process():
        with ThreadPoolExecutor(4) as pool:
            problems = tqdm(pool.map(problem, ids), "checking", len(ids), unit="photo", disable=None)
            bad = {image_id: text for image_id, text in zip(ids, problems, strict=True) if text}
    bad = ranks.from_main(bad)
    goes_on = skip_errors and len(bad) < len(ids)
    if ranks.is_main_process():
        shown = list(bad.items())[: None if goes_on else FIRST]
        for image_id, message in shown:
            print(f"{image_id}: {message}", file=sys.stderr)
    if bad and not goes_on:
        remedy = "" if len(bad) == len(ids) else "; --skip_errors trains without them"
        above = "listed above" if len(bad) <= FIRST else f"the first {FIRST} listed above"
        raise UserError(f"{len(bad)} of the {len(ids)} photos of {listed_in} can't be trained on, {above}{remedy}")
    return [image_id for image_id in ids if image_id not in bad], list(bad)
