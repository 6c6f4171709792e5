"""The official archives of VOC 2012 and SBD, at the addresses and checksums that torchvision knows."""

from pathlib import Path

from torchvision.datasets import SBDataset, voc

from tool.download import fetch


def download_voc(folder: str | Path) -> Path:
    """Fetch and unpack VOC 2012 trainval (2 GB) under `folder`, unless that was done before; its devkit folder."""
    facts = voc.DATASET_YEAR_DICT["2012"]
    return fetch(facts["url"], facts["md5"], facts["filename"], facts["base_dir"], Path(folder))


def download_sbd(folder: str | Path) -> Path:
    """Fetch and unpack SBD (1.4 GB) under `folder`, unless that was done before; the folder that holds `cls`."""
    return fetch(SBDataset.url, SBDataset.md5, SBDataset.filename, "benchmark_RELEASE/dataset", Path(folder))
