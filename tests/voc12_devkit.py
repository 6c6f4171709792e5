"""Small devkits, SBD files, and a server of their archives for the tests of voc12/."""

import contextlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image
from scipy.io import savemat

from voc12.classes import CLASSES
from voc12.images import save_label

REPO = Path(__file__).resolve().parents[1]
SHARED = REPO.parent / "shared"


def xml(names) -> str:
    """Return a devkit annotation with one object per name."""
    return f"<annotation>{''.join(f'<object><name>{name}</name></object>' for name in names)}</annotation>"


def hot(*classes: int) -> np.ndarray:
    """Return a multi-hot label (20,) float32."""
    label = np.zeros(20, np.float32)
    label[list(classes)] = 1
    return label


def mask(*classes: int, shape=(12, 16)) -> np.ndarray:
    """Return a label map that shows these classes (0..19), one row each, and some void."""
    label = np.zeros(shape, np.uint8)
    label[: len(classes)] = np.array(classes)[:, None] + 1
    label[-1, 0] = 255
    return label


def write_png(path: Path, label: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_label(path, label)


def write_mat(path: Path, label: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"GTcls": {"Segmentation": label}}, do_compression=True)


def write_devkit(root: Path, labels: dict, train=(), val=(), own=(), shape=(12, 16)) -> Path:
    """Write JPEGImages and Annotations of `labels` (id -> classes), the split lists, and masks in SegmentationClass."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Segmentation", "SegmentationClass"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for image_id, classes in labels.items():
        Image.new("RGB", shape[::-1], (90, 120, 30)).save(root / f"JPEGImages/{image_id}.jpg")
        (root / f"Annotations/{image_id}.xml").write_text(xml([CLASSES[index] for index in classes]))
    for name, ids in (("train", train), ("val", val)):
        (root / f"ImageSets/Segmentation/{name}.txt").write_text("".join(f"{image_id}\n" for image_id in ids))
    for image_id in own:
        write_png(root / f"SegmentationClass/{image_id}.png", mask(*labels[image_id], shape=shape))
    return root


TRAIN = ("2007_000001", "2007_000003")
VAL = ("2007_000002", "2007_000004")
SBD_ONLY = ("2008_000005", "2008_000006", "2009_000007", "2009_000008")
CLASSES_OF = ((0, 14), (14,), (6,), (14, 6), (6,), (0,), (11, 14), (11,))
LABELS = dict(zip(sorted(TRAIN + VAL + SBD_ONLY), CLASSES_OF, strict=True))


def write_voc_and_sbd(folder: Path) -> tuple[Path, Path]:
    """Write a devkit of eight images, four with masks of VOC, and an SBD with masks of six, two of them also VOC's."""
    root = write_devkit(folder / "VOCdevkit/VOC2012", LABELS, TRAIN, VAL, own=TRAIN + VAL)
    for image_id in SBD_ONLY:
        label = mask(*LABELS[image_id])
        label[label == 255] = 0
        write_mat(folder / f"benchmark_RELEASE/dataset/cls/{image_id}.mat", label)
    for image_id in TRAIN:  # VOC's own mask must win over these
        write_mat(folder / f"benchmark_RELEASE/dataset/cls/{image_id}.mat", np.full((12, 16), 20, np.uint8))
    return root, folder / "benchmark_RELEASE"


def contents(*folders: Path) -> dict[str, bytes]:
    """Return relative path -> bytes of every file in the folders, hidden and temporary ones included."""
    paths = [(folder, path) for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    return {f"{folder.name}/{path.relative_to(folder)}": path.read_bytes() for folder, path in paths}


@contextlib.contextmanager
def running_server() -> Iterator[SimpleNamespace]:
    """Serve `files` (name -> bytes), those in `cut` by half; `served` lists each answer's name and first byte."""
    state = SimpleNamespace(files={}, cut=set(), ranges=True, served=[])

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.strip("/")
            body = state.files.get(name)
            start = int(self.headers["Range"][6:-1]) if state.ranges else 0
            if body is None or start >= len(body):
                self.send_error(404 if body is None else 416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            state.served.append((name, start))
            self.wfile.write(body[start : len(body) // 2] if name in state.cut else body[start:])

        def log_message(self, *arguments) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield state
        server.shutdown()
