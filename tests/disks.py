"""A disk that fills up: a small tmpfs if this process may mount one, else a limit on the size of files."""

import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = "(No space left on device|File too large)"


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[dict[int, int]]:
    """Mount a disk of `size` bytes at `folder`; yield resource limits for the command. Its files stay after the block."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True).returncode:
        yield {resource.RLIMIT_FSIZE: size // 4}
        return
    try:
        yield {}
    finally:
        kept = shutil.copytree(folder, folder.with_name("kept"))
        subprocess.run(["umount", folder], check=True)
        shutil.copytree(kept, folder, dirs_exist_ok=True)
