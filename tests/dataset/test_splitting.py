import hashlib
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from conftest import ROOT, choose, restructure, write_images
from relearn import paths
from relearn.dataset.assignments import hash_group, read_assignments
from relearn.dataset.inspections import Inspection
from relearn.dataset.splitting import SourceImage, choose_split, split_images
from relearn.errors import IntegrityError
from relearn.params.pipeline import read_params


def test_class_folders_are_split_by_content(use_layout):
    use_layout(layout="class_folders", fractions={"validation": 0.3, "evaluation": 0.3})
    write_images(Path("source"), [f"{label}/{n}.png" for label in "ab" for n in range(40)])
    before, _ = restructure()
    counts = Counter(row.split for row in before.values())
    assert min(counts["training"], counts["validation"], counts["evaluation"]) > 10
    write_images(Path("source"), [f"a/new{n}.png" for n in range(40)], 1000)
    Path("source/b/copy.png").write_bytes(Path("source/b/3.png").read_bytes())
    Path("source/b/4.png").unlink()
    after, _ = restructure()
    (gone,) = before.keys() - after.keys()
    assert gone.endswith("b/4.png")
    (original,) = (row for row in after.values() if row.path.endswith("/b/3.png"))
    (copy,) = (row for row in after.values() if row.path.endswith("copy.png"))
    assert copy.split == original.split


def test_second_run_writes_the_same_bytes_and_an_image_that_comes_back_gets_its_split(use_layout, caplog):
    caplog.set_level("INFO")
    use_layout(layout="class_folders", stratify=True)
    write_images(Path("source"), [f"{label}/{n}.png" for label in "ab" for n in range(10)])
    before, _ = restructure()
    assert Counter((row.label, row.split) for row in before.values()) == {
        (label, split): n for label in "ab" for split, n in (("training", 6), ("validation", 2), ("evaluation", 2))
    }
    assert "data/splits.csv: 20 images got a split that they keep: commit the file" in caplog.text
    content = paths.SPLITS.read_bytes()
    caplog.clear()
    assert restructure()[0] == before
    assert paths.SPLITS.read_bytes() == content
    assert "data/splits.csv" not in caplog.text
    Path("source/a").rename("a")
    restructure()
    assert paths.SPLITS.read_bytes() == content
    Path("a").rename("source/a")
    write_images(Path("source"), [f"a/new{n}.png" for n in range(30)], 1000)
    assert restructure()[0].items() >= before.items()
    assert read_assignments(paths.SPLITS).items() >= {row.sha256: row for row in read_rows(content)}.items()


def read_rows(content):
    Path("before.csv").write_bytes(content)
    return read_assignments(Path("before.csv")).values()


@pytest.mark.parametrize(
    "changes", [{"layout": "class_folders", "stratify": False}, {"layout": "split_class_folders", "stratify": True}]
)
def test_nothing_is_remembered_of_what_needs_no_memory(use_layout, changes):
    use_layout(**changes)
    write_images(Path("source"), [f"{split}/a/{n}.png" for split in ("training", "validation") for n in range(5)])
    write_images(Path("source"), ["other/b/1.png"], 50)
    restructure()
    assert paths.SPLITS.read_text() == "sha256,split,group\n"


def test_damaged_memory_is_an_error_and_nothing_is_written(use_layout):
    use_layout(layout="class_folders", stratify=True)
    write_images(Path("source"), [f"a/{n}.png" for n in range(5)])
    restructure()
    manifest = paths.MANIFEST.read_bytes()
    paths.SPLITS.write_text("<<<<<<< HEAD\n")
    with pytest.raises(IntegrityError, match=r"data/splits.csv: wanted the columns sha256,split,group"):
        restructure()
    assert paths.MANIFEST.read_bytes() == manifest
    assert paths.SPLITS.read_text() == "<<<<<<< HEAD\n"


def test_fractions_are_met():
    fractions = read_params(ROOT / "params.yaml").restructure.fractions
    splits = Counter(choose_split(hashlib.sha256(str(n).encode()).hexdigest(), fractions) for n in range(20_000))
    assert splits["validation"] / 20_000 == pytest.approx(0.2, abs=0.01)
    assert splits["evaluation"] / 20_000 == pytest.approx(0.2, abs=0.01)


def test_validation_is_cut_from_training_where_there_is_none(use_layout):
    splits = {"training": "training", "validation": None, "evaluation": "evaluation"}
    use_layout(layout="split_class_folders", splits=splits, fractions={"validation": 0.5, "evaluation": 0.2})
    write_images(Path("source"), [f"training/a/{n}.png" for n in range(60)])
    write_images(Path("source"), [f"evaluation/a/{n}.png" for n in range(5)], 1000)
    kept, _ = restructure()
    counts = Counter(row.split for row in kept.values())
    assert counts["evaluation"] == 5
    assert counts["training"] + counts["validation"] == 60
    assert 20 < counts["validation"] < 45


def copy(source, target):
    Path("source", target).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path("source", source), Path("source", target))


def test_copies_in_two_splits_stay_in_the_later_one(use_layout):
    use_layout(layout="split_class_folders")
    write_images(Path("source"), ["training/a/1.png", "validation/a/2.png", "evaluation/a/3.png"])
    copy("training/a/1.png", "validation/a/1.png")
    copy("training/a/1.png", "evaluation/a/1.png")
    copy("training/a/1.png", "training/a/again.png")
    copy("validation/a/2.png", "training/a/2.png")
    kept, excluded = restructure()
    assert set(kept) == {"validation/a/2.png", "evaluation/a/3.png", "evaluation/a/1.png"}
    assert excluded == {
        "training/a/1.png": "same bytes in a later split: evaluation/a/1.png, kept in evaluation",
        "training/a/again.png": "same bytes in a later split: evaluation/a/1.png, kept in evaluation",
        "validation/a/1.png": "same bytes in a later split: evaluation/a/1.png, kept in evaluation",
        "training/a/2.png": "same bytes in a later split: validation/a/2.png, kept in validation",
    }


def test_copies_are_kept_on_request(use_layout):
    use_layout(layout="split_class_folders", duplicates="keep")
    write_images(Path("source"), ["training/a/1.png", "validation/a/2.png"])
    copy("training/a/1.png", "evaluation/a/1.png")
    kept, excluded = restructure()
    assert set(kept) == {"training/a/1.png", "validation/a/2.png", "evaluation/a/1.png"}
    assert excluded == {}


@pytest.mark.parametrize("duplicates", ["exclude", "keep"])
def test_copies_under_two_labels_are_excluded(use_layout, duplicates):
    use_layout(layout="split_class_folders", duplicates=duplicates)
    write_images(Path("source"), ["training/cat/1.png", "training/cat/2.png"])
    copy("training/cat/1.png", "evaluation/dog/1.png")
    kept, excluded = restructure()
    assert [row.label for row in kept.values()] == ["cat"]
    reason = "same bytes under different labels: dog (evaluation/dog/1.png), cat (training/cat/1.png)"
    assert excluded == {"training/cat/1.png": reason, "evaluation/dog/1.png": reason}


def test_reason_does_not_grow_with_the_copies(use_layout):
    use_layout(layout="class_folders")
    write_images(Path("source"), ["a/0.png", "c/1.png"])
    for n in range(40):
        copy("a/0.png", f"{'ab'[n % 2]}/x{n}.png")
    _, excluded = restructure()
    assert len(excluded) == 41
    assert set(excluded.values()) == {"same bytes under different labels: a (a/0.png), b (b/x1.png)"}


def test_plan_does_not_depend_on_the_order(root):
    params = read_params(root / "params.yaml").restructure
    shuffler = random.Random(0)
    images = []
    for number in range(200):
        sha256 = hashlib.sha256(str(number % 60).encode()).hexdigest()
        split = shuffler.choice(["training", "evaluation"])
        label = "a" if number % 7 else "b"
        images.append(SourceImage(f"{number}/x.png", split, label, Inspection(sha256, 1)))
    first = split_images(images, params, {})
    for _ in range(5):
        shuffler.shuffle(images)
        kept, excluded, *_ = split_images(images, params, {})
        assert (sorted(kept), sorted(excluded)) == (sorted(first[0]), sorted(first[1]))
        assert len(kept) + len(excluded) == len(images)


STRATIFIED = read_params(ROOT / "params.yaml").restructure.model_copy(update={"stratify": True})


def make_image(number, label="a", split=None, group=""):
    sha256 = hashlib.sha256(str(number).encode()).hexdigest()
    return SourceImage(f"{label}/{number}.png", split, label, Inspection(sha256, 1), hash_group(group))


def read_splits(cut):
    return {image.seen.sha256: image.split for image in cut.kept}


def count_classes(cut):
    return Counter((image.label, image.split) for image in cut.kept)


def find_gap(cut, fractions=STRATIFIED.fractions):
    """Return how far the splits of any class are from their shares, in images."""
    gap = 0.0
    for label, n_images in Counter(image.label for image in cut.kept).items():
        for split in ("validation", "evaluation"):
            gap = max(gap, abs(count_classes(cut)[label, split] - getattr(fractions, split) * n_images))
    return gap


def test_no_image_moves_in_any_history():
    """Images come, go, come back and get copies, in any order; then the set grows, and the shares are met again."""
    for seed in range(choose(100, 1000)):
        shuffler = random.Random(seed)
        labels = "abc"[: 1 + seed % 3]
        pool = [make_image(number, shuffler.choice(labels)) for number in range(40)]
        given, known = {}, {}
        for _ in range(4):
            images = shuffler.sample(pool, shuffler.randrange(1, 40))
            assert find_gap(split_images(images, STRATIFIED, {})) <= 1
            images += [image._replace(path=f"copy of {image.path}") for image in images[: shuffler.randrange(3)]]
            cut = split_images(images, STRATIFIED, known)
            splits = read_splits(cut)
            assert splits.items() >= {sha256: given[sha256] for sha256 in splits if sha256 in given}.items()
            again = split_images(shuffler.sample(images, len(images)), STRATIFIED, known)
            assert (read_splits(again), again.assignments) == (splits, cut.assignments)
            assert split_images(images, STRATIFIED, cut.assignments).assignments == cut.assignments
            given, known = {**given, **splits}, cut.assignments
        grown = split_images(
            [*pool, *(make_image(n, shuffler.choice(labels)) for n in range(100, 300))], STRATIFIED, known
        )
        assert read_splits(grown).items() >= given.items()
        assert find_gap(grown) <= 1


def test_smallest_hashes_of_a_class_go_to_evaluation_and_the_next_to_validation():
    cut = split_images([make_image(number) for number in range(20)], STRATIFIED, {})
    order = [split for _, split in sorted(read_splits(cut).items())]
    assert order == ["evaluation"] * 4 + ["validation"] * 4 + ["training"] * 12


def test_without_stratify_what_is_remembered_is_not_used_and_not_lost():
    params = STRATIFIED.model_copy(update={"stratify": False})
    images = [make_image(number) for number in range(50)]
    pure = split_images(images, params, {})
    assert pure.assignments == {}
    remembered = split_images(images, STRATIFIED, {})
    again = split_images(images, params, remembered.assignments)
    assert read_splits(again) == read_splits(pure) != read_splits(remembered)
    assert again.assignments == remembered.assignments


def test_changed_fractions_move_nothing_and_are_reported():
    images = [make_image(number) for number in range(50)]
    first = split_images(images, STRATIFIED, {})
    assert first.remarks == []
    fractions = STRATIFIED.fractions.model_copy(update={"evaluation": 0.4})
    second = split_images(images, STRATIFIED.model_copy(update={"fractions": fractions}), first.assignments)
    assert read_splits(second) == read_splits(first)
    assert second.remarks == [
        f"{split} has 10 of 50 images or groups {what} than restructure.fractions asks for, because images keep their "
        "split; without data/splits.csv all are cut again"
        for split, what in (("evaluation", "fewer"), ("training", "more"))
    ]


def test_what_the_source_names_is_not_remembered_and_wins():
    first = split_images([make_image(number) for number in range(20)], STRATIFIED, {})
    named = [make_image(number, split="training") for number in range(20)] + [make_image(30, split="validation")]
    second = split_images(named, STRATIFIED, first.assignments)
    assert set(read_splits(second).values()) == {"training", "validation"}
    assert second.assignments == first.assignments
    assert split_images(named, STRATIFIED, {}).assignments == {}


def test_validation_cut_from_training_is_remembered():
    images = [make_image(number, "ab"[number % 2], "training") for number in range(20)]
    test = [make_image(number, "ab"[number % 2], "evaluation") for number in range(100, 110)]
    first = split_images([*images, *test], STRATIFIED, {})
    assert count_classes(first)["a", "validation"] == count_classes(first)["b", "validation"] == 2
    assert len(first.assignments) == 20
    more = [make_image(number, "a", "training") for number in range(200, 260)]
    second = split_images([*images, *more, *test], STRATIFIED, first.assignments)
    assert read_splits(second).items() >= read_splits(first).items()
    assert count_classes(second)["a", "validation"] == 14


def test_groups_are_cut_as_one_image():
    images = [make_image(number, "ab"[number % 2], group=f"patient {number // 7}") for number in range(140)]
    cut = split_images(images, STRATIFIED, {})
    splits = {image.group: {other.split for other in cut.kept if other.group == image.group} for image in cut.kept}
    assert all(len(found) == 1 for found in splits.values())
    assert Counter(next(iter(found)) for found in splits.values()) == {"training": 12, "validation": 4, "evaluation": 4}
    # A new image of a group goes there, also when the others are gone.
    new = [make_image(1000 + number, "a", group=f"patient {number}") for number in range(20)]
    later = split_images(new, STRATIFIED, cut.assignments)
    assert all({image.split} == splits[image.group] for image in later.kept)


def test_groups_are_cut_by_hash_alone_without_stratify():
    params = STRATIFIED.model_copy(update={"stratify": False})
    images = [make_image(number, group=f"patient {number // 7}") for number in range(700)]
    cut = split_images(images, params, {})
    splits = {(image.group, image.split) for image in cut.kept}
    assert len(splits) == 100
    assert {split for _, split in splits} == {"training", "validation", "evaluation"}
    assert {(row.group, row.split) for row in cut.assignments.values()} == splits
    remembered = split_images(images, STRATIFIED, {}).assignments
    assert split_images(images, params, remembered).assignments == remembered


def test_image_in_two_groups_belongs_to_one_with_its_copies():
    one, other = make_image(1, group="x"), make_image(1, group="y")._replace(path="other")
    rest = [make_image(number, group="xy"[number % 2]) for number in range(10, 20)]
    cut = split_images([one, other, *rest], STRATIFIED, {})
    assert len({image.group for image in cut.kept if image.seen == one.seen}) == 1
    assert len(cut.kept) == 12


def test_grouping_that_comes_later_moves_nothing_and_then_holds():
    images = [make_image(number) for number in range(40)]
    first = split_images(images, STRATIFIED, {})
    grouped = [make_image(number, group="all") for number in range(41)]
    second = split_images(grouped, STRATIFIED, first.assignments)
    assert read_splits(second).items() >= read_splits(first).items()
    assert read_splits(second)[grouped[40].seen.sha256] == "evaluation"  # the last of those that the group is in
    assert {row.group for row in second.assignments.values()} == {hash_group("all")}
    third = split_images(images, STRATIFIED, second.assignments)
    assert {row.group for row in third.assignments.values()} == {
        "",
        hash_group("all"),
    }  # that of the image that is gone


def test_images_without_a_split_follow_those_of_their_group_that_have_one():
    named = [make_image(number, split="training", group=f"{number}") for number in range(20)]
    named += [make_image(50, split="validation", group="50"), make_image(51, split="evaluation", group="51")]
    free = [make_image(number + 100, group=f"{number}") for number in [*range(20), 50, 51]]
    cut = split_images([*named, *free], STRATIFIED, {})
    assert len({(image.group, image.split) for image in cut.kept}) == 22
