"""Download of the official archives of VOC 2012, SBD and COCO 2014."""

import hashlib
import http.client
import os
import shutil
import urllib.request
import zipfile
import zlib
from pathlib import Path

from tqdm import tqdm

from tool.cli import UserError
from tool.files import make_folder

# Address, folder in the archive, MD5.
VOC_2012 = (
    "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    "VOCdevkit/VOC2012",
    "6cd6e144f989b92b3379bac3b3de84fd",
)
SBD = (
    "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
    "benchmark_RELEASE/dataset",
    "82b4d87ceb2ed10f6038a1cba92111cb",
)


def fetch(folder: Path, url: str, inner: str, md5: str | None = None) -> Path:
    """Download an archive into `folder`, unpack its folder `inner` there unless that exists, and return `folder / inner`.

    A rerun resumes the download; the archive is checked first, and unpacked in a temporary folder.
    md5: None for a .zip, whose files have checksums.
    """
    target, archive = folder / inner, make_folder(folder) / url.rsplit("/", 1)[1]
    if target.is_dir():
        return target
    unpacked = folder / f"{archive.name}.unpacked"
    try:
        if not _is_whole(archive, md5):
            _download(url, archive)
        if not _is_whole(archive, md5):
            raise zipfile.BadZipFile("it is damaged")
        shutil.unpack_archive(archive, unpacked)
        make_folder(target.parent)
        os.replace(unpacked / inner, target)
    except (OSError, ValueError, http.client.HTTPException, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, (zipfile.BadZipFile, zlib.error)) or getattr(error, "code", None) == 416:  # too long
            archive.unlink()
        remedy = "Run the command again, which resumes, or put the archive there yourself"
        problem = f"could not be fetched from {url} and unpacked ({error})"
        raise UserError(f"{archive}: {problem}. {remedy}{f' (MD5 {md5})' if md5 else ''}.") from error
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
    return target


def _is_whole(archive: Path, md5: str | None) -> bool:
    """Return whether the archive is there and has the MD5, or without one the end of a zip file."""
    if md5 is None or not archive.is_file():
        return zipfile.is_zipfile(archive)
    with open(archive, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest() == md5


def _download(url: str, archive: Path) -> None:
    """Download a file, or the rest of one if the server allows it."""
    print(f"{archive}: download from {url}")
    start = archive.stat().st_size if archive.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"})
    with urllib.request.urlopen(request, timeout=60) as response:  # seconds without a single byte
        start = start if response.status == 206 else 0
        length = start + int(response.headers.get("Content-Length", 0))
        bar = tqdm(total=length, initial=start, unit="B", unit_scale=True, disable=None)
        with bar, open(archive, "ab" if start else "wb") as file:
            while block := response.read(1 << 20):
                bar.update(file.write(block))
    if archive.stat().st_size < length:
        raise ConnectionError(f"{archive.stat().st_size} of {length} bytes arrived")
