"""Download of the official archives: VOC 2012 and SBD, at torchvision's addresses and checksums, and COCO 2014."""

import http.client
import os
import shutil
import socket
import tarfile
import zipfile
from pathlib import Path

from torchvision.datasets import SBDataset, utils, voc

from tool.cli import UserError
from tool.files import make_folder


def download_voc(folder: Path) -> Path:
    """Download VOC 2012 trainval (2 GB) unless it is there, and return its devkit folder."""
    facts = voc.DATASET_YEAR_DICT["2012"]
    return fetch(facts["url"], facts["base_dir"], folder, facts["md5"])


def download_sbd(folder: Path) -> Path:
    """Download SBD (1.4 GB) unless it is there, and return the folder that holds `cls`."""
    return fetch(SBDataset.url, "benchmark_RELEASE/dataset", folder, SBDataset.md5)


def fetch(url: str, inner: str, folder: Path, md5: str | None = None) -> Path:
    """Download an archive into `folder`, unpack its folder `inner` there unless that exists, and return `folder / inner`.

    An interrupted run is never taken for whole: the archive is checked, and unpacked in a temporary folder.
    md5: None for a .zip, whose files have checksums.
    """
    target, archive = folder / inner, folder / url.rsplit("/", 1)[1]
    if target.is_dir():
        print(f"{target}: unpacked already")
        return target
    partial = make_folder(folder) / f"{archive.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    if md5 is None and not zipfile.is_zipfile(archive):
        archive.unlink(missing_ok=True)  # torchvision takes any file for whole where it has no checksum
    socket.setdefaulttimeout(60)  # seconds without a single byte
    try:
        print(f"{archive}: download from {url} unless it is whole, then unpack")
        utils.download_and_extract_archive(url, folder, partial, archive.name, md5)
        make_folder(target.parent)
        os.replace(partial / inner, target)
    except (OSError, RuntimeError, http.client.HTTPException, tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        # RuntimeError: torchvision's "File not found or corrupted." for a wrong checksum or a cut connection.
        raise UserError(
            f"{archive}: could not be fetched from {url} and unpacked ({error}). "
            f"Run the command again, or put the archive there yourself{f' (MD5 {md5})' if md5 else ''}."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target
