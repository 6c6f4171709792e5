"""Fetching official archives, so that what was interrupted goes on and nothing half unpacked is taken for whole."""

import http.client
import os
import shutil
import socket
import tarfile
import zipfile
from pathlib import Path

from torchvision.datasets.utils import check_integrity, download_url, extract_archive

from tool.aside import next_free
from tool.cli import UserError
from tool.files import make_folder

TIMEOUT = 60.0  # seconds without a single byte


def fetch(url: str, md5: str | None, filename: str, inner: str, folder: Path) -> Path:
    """`folder / inner`, unpacked from the archive `folder / filename`, which is fetched from `url` unless that was done before.

    torchvision's dataset classes unpack again on every run, or fail on the second; so their parts are used here.
    Archive and folder appear whole: both are made in a folder beside them first. Of a zip archive the md5 may
    be unknown: its parts have checksums of their own.
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
        whole = check_integrity(archive, md5) if md5 else zipfile.is_zipfile(archive)
        if whole:
            print(f"{archive}: downloaded already")
        else:
            if archive.exists():
                print(f"{archive}: {'its checksum is wrong' if md5 else 'it is not whole'}, so it is fetched again")
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
    except (OSError, RuntimeError, http.client.HTTPException, tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        # torchvision says "File not found or corrupted." (RuntimeError) for a wrong checksum and a cut connection.
        raise UserError(
            f"could not fetch and unpack {url}: {error}; run the same command again, "
            f"or put the archive{f' (MD5 {md5})' if md5 else ''} at {archive} yourself"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)
        shutil.rmtree(partial, ignore_errors=True)
    return target
