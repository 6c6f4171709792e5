"""Training pairs: random matchings in which both images of a pair show its class."""

import hashlib
from collections import Counter

import numpy as np
import pytest
from voc12_devkit import SHARED, hot, write_devkit

from tool.cli import UserError
from voc12.classes import VOC
from voc12.labels import read_label_table
from voc12.lists import format_pairs, read_image_list, read_pairs
from voc12.pairs import check_pairs, main, make_pairs


def some_labels(number: int) -> dict[str, np.ndarray]:
    """Return images with one or two classes, person in every third; the last class is rare."""
    return {f"{n:05d}": hot(n % 19, 14 if n % 3 == 0 else n % 19, 19 if n % 97 == 5 else n % 19) for n in range(number)}


def epochs_of(pairs, epochs):
    return np.array(pairs, object).reshape(epochs, -1, 3).tolist()


def uses(pairs) -> Counter:
    return Counter(image_id for first, second, _ in pairs for image_id in (first, second))


def check(labels, pairs, epochs) -> None:
    """Check that pairs share their class, epochs differ, and each holds every image, at least 99.9 % of them once."""
    matchings = set()
    for epoch in epochs_of(pairs, epochs):
        assert all(labels[first][label] and labels[second][label] for first, second, label in epoch)
        assert uses(epoch).keys() == labels.keys()
        assert sum(times == 1 for times in uses(epoch).values()) >= 0.999 * len(labels)
        matchings.add(frozenset(frozenset(pair[:2]) for pair in epoch))
    assert len(matchings) == epochs


@pytest.mark.parametrize("number", [1000, 1001])
def test_each_epoch_is_a_different_matching(number):
    labels = some_labels(number)
    pairs = make_pairs(labels, 5, 0)
    check(labels, pairs, 5)
    for epoch in epochs_of(pairs, 5):
        assert sorted(uses(epoch).values())[-2:] == ([1, 1] if number == 1000 else [1, 2])
        assert all(first != second for first, second, _ in epoch)


@pytest.mark.skipif(not (SHARED / "voc12_lists").exists(), reason="needs ../shared/voc12_lists")
def test_25_epochs_over_the_public_train_aug():
    ids = read_image_list(SHARED / "voc12_lists/train_aug.txt")
    table = read_label_table(SHARED / "voc12_lists/cls_labels.npy", VOC)
    labels = {image_id: table[image_id] for image_id in ids}
    pairs = make_pairs(labels, 25, 0)
    assert len(pairs) == 132275
    check(labels, pairs, 25)
    assert max(uses(pairs).values()) == 25  # exactly once in each of the 25 epochs, as the number is even
    # The bytes for seed 0 on any machine, and with any numpy.
    digest = hashlib.sha256(format_pairs(pairs).encode()).hexdigest()
    assert digest == "534a0913a816dd843b923a9c3575a92c833cb0664193cd853d8804382e8d8855"


def test_same_seed_gives_same_bytes_for_any_order_of_the_images():
    labels = some_labels(200)
    text = format_pairs(make_pairs(labels, 3, 7))
    assert format_pairs(make_pairs(dict(reversed(labels.items())), 3, 7)) == text
    assert format_pairs(make_pairs(labels, 3, 8)) != text
    assert format_pairs(make_pairs(labels, 4, 7)).startswith(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest == "b1e93938bbf9a0f0844fde5b0ef81c496a0274d53c6fe55a03d56d043f634fcb"


def test_partners_and_shared_classes_are_drawn_evenly():
    pairs = make_pairs({f"{n}": hot(2, 5, 11) for n in range(4)}, 3000, 0)
    drawn = Counter(label for *_, label in pairs)
    assert all(1860 < drawn[label] < 2140 for label in (2, 5, 11))
    partners = Counter(second if first == "0" else first for first, second, _ in pairs if "0" in (first, second))
    assert sum(partners.values()) == 3000
    assert all(900 < partners[other] < 1100 for other in "123")
    firsts = Counter(first for first, _, _ in pairs)
    assert all(1350 < firsts[image_id] < 1650 for image_id in "0123")


def test_images_of_two_classes_bridge_odd_classes():
    # 3 images of class 0 and 3 of class 4 leave one of each over, unless a chain over classes 1 and 2 joins them.
    shown = ([0], [0], [0], [4], [4], [4], [0, 1], [1, 2], [2, 4], [1], [2], [1])
    labels = {f"{n:02d}": hot(*classes) for n, classes in enumerate(shown)}
    for epoch in epochs_of(make_pairs(labels, 20, 1), 20):
        assert set(uses(epoch).values()) == {1}


def test_images_without_partner_are_paired_again_or_with_themselves():
    labels = {"a": hot(0), "b": hot(0), "c": hot(0), "d": hot(7), "e": hot(8, 0)}
    for epoch in epochs_of(make_pairs(labels, 10, 0), 10):
        assert uses(epoch).keys() == labels.keys()
        assert ["d", "d", 7] in epoch
        assert all(first != second for first, second, _ in epoch if first != "d")
        assert len(epoch) == 3
    assert make_pairs({"a": hot(3)}, 2, 0) == [("a", "a", 3)] * 2


def test_check_pairs_names_the_first_wrong_line(tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_text("/JPEGImages/a.jpg /JPEGImages/b.jpg 0\n\n/JPEGImages/b.jpg /JPEGImages/a.jpg 5\n")
    check_pairs([("a", "b", 0)], {"a": hot(0), "b": hot(0, 5)}, path)
    for wrong in "ab":
        labels = {"a": hot(0, 5), "b": hot(0, 5), wrong: hot(0)}
        with pytest.raises(UserError, match=f"{path}: line 3 .*bus, but {wrong} "):
            check_pairs(read_pairs(path), labels, path)


def test_training_rejects_a_pair_list_with_wrong_classes(commands, drawn, tmp_path):
    (tmp_path / "pairs.txt").write_text("/JPEGImages/2099_000001.jpg /JPEGImages/2099_000021.jpg 3\n")
    line = commands.error(tmp_path, "train_EDAM_cls.py", "--voc12_root", drawn, "--train_list", "pairs.txt")
    assert line.startswith("pairs.txt: line 1 ") and not (tmp_path / "checkpoints").exists()


def test_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = write_devkit(tmp_path / "VOC2012", {"a": (0,), "b": (0, 1), "c": (1,), "d": (1,), "e": (), "f": ()})
    (tmp_path / "list.txt").write_text("a\nb\nc\nd\n")
    flags = ["--voc12_root", str(root), "--image_list", "list.txt", "--out", "pairs.txt", "--epochs", "3"]
    main(flags)
    assert capsys.readouterr().out == f"labels: 4 from {root / 'Annotations'}\npairs.txt: 6 pairs, 2 per epoch\n"
    assert {i for pair in read_pairs("pairs.txt")[:2] for i in pair[:2]} == set("abcd")
    (tmp_path / "list.txt").write_text("a\ne\nf\n")
    with pytest.raises(UserError, match=rf"\(e, f\).*{root}/Annotations/e.xml"):
        main(flags)
    (tmp_path / "labels.csv").touch()
    with pytest.raises(UserError, match=r"--labels lables\.csv: does not exist .*labels\.csv"):
        main([*flags, "--labels", "lables.csv"])
    for flag in ("--image_list", "--labels"):
        with pytest.raises(UserError, match=r"--out pairs\.txt: is also read"):
            main([*flags, flag, "pairs.txt"])
