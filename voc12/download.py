"""Fetching the official archives of VOC 2012 and SBD, at the addresses and checksums that torchvision knows."""

import http.client
import os
import shutil
import socket
import tarfile
from pathlib import Path

from torchvision.datasets import SBDataset, voc
from torchvision.datasets.utils import check_integrity, download_url, extract_archive

from tool.errors import UserError
from tool.files import make_folder
from voc12.aside import next_free

TIMEOUT = 60.0  # seconds without a single byte


def download_voc(folder: str | Path) -> Path:
    """Fetch and unpack VOC 2012 trainval (2 GB) under `folder`, unless that was done before; its devkit folder."""
    facts = voc.DATASET_YEAR_DICT["2012"]
    return _fetch(facts["url"], facts["md5"], facts["filename"], facts["base_dir"], Path(folder))


def download_sbd(folder: str | Path) -> Path:
    """Fetch and unpack SBD (1.4 GB) under `folder`, unless that was done before; the folder that holds `cls`."""
    return _fetch(SBDataset.url, SBDataset.md5, SBDataset.filename, "benchmark_RELEASE/dataset", Path(folder))


def _fetch(url: str, md5: str, filename: str, inner: str, folder: Path) -> Path:
    """`folder / inner`, unpacked from the archive `folder / filename`, which is fetched from `url`.

    torchvision's dataset classes unpack again on every run, or fail on the second; so their parts are used here.
    Archive and folder appear whole: both are made in a folder beside them first.
    """
    target, archive = folder / inner, folder / filename
    if target.is_dir():
        print(f"{target}: unpacked already")
        return target
    partial = make_folder(folder) / f"{filename}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        if check_integrity(archive, md5):
            print(f"{archive}: downloaded already")
        else:
            if archive.exists():
                print(f"{archive}: its checksum is wrong, so it is fetched again")
            print(f"fetching {url}")
            download_url(url, partial, filename, md5)
            if archive.exists():
                print(f"{archive}: what it held is kept as {archive.rename(next_free(archive))}")
            os.replace(partial / filename, archive)
        print(f"unpacking {archive}")
        extract_archive(archive, make_folder(partial))
        if not (partial / inner).is_dir():
            raise UserError(f"{archive} holds no {inner}")
        make_folder(target.parent)
        os.replace(partial / inner, target)
    except (OSError, RuntimeError, http.client.HTTPException, tarfile.TarError, EOFError) as error:
        # torchvision says "File not found or corrupted." (RuntimeError) for a wrong checksum and a cut connection.
        raise UserError(
            f"could not fetch and unpack {url}: {error}; run the same command again, "
            f"or put the archive (MD5 {md5}) at {archive} yourself"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)
        shutil.rmtree(partial, ignore_errors=True)
    return target
