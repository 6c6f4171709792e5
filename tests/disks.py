"""A disk that fills up: a small tmpfs if this process may mount one, else a limit on the size of files."""

import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = "(No space left on device|File too large)"


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[dict[int, int]]:
    """Mount a disk of `size` bytes at `folder`; yield resource limits for the command. Its files stay after the block."""
    folder.mkdir()
    options = f"size={size}"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode:
        yield {resource.RLIMIT_FSIZE: size // 4}
        return
    try:
        yield {}
    finally:
        kept = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        subprocess.run(["umount", folder], check=True)
        for name, data in kept.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
