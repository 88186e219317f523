import re

import numpy as np
import pytest
from typer.testing import CliRunner

from conftest import draw_image, encode_image, restructure, write_rows
from relearn import cli, paths
from relearn.commands import similar
from relearn.dataset.manifest import ManifestRow, read_manifest
from relearn.errors import ImageError, IntegrityError
from relearn.features.neighbors import Neighbor

pytestmark = pytest.mark.usefixtures("forty")


@pytest.fixture
def rows():
    """Features of the forty images, of which the second of the manifest is nearly the first."""
    restructure()
    values = np.random.default_rng(0).normal(size=(40, 16)).astype(np.float32)
    values[1] = values[0] + 0.01
    write_rows(paths.FEATURES, read_manifest(paths.MANIFEST), values)
    return values


def relearn(*arguments):
    answer = CliRunner().invoke(cli.app, ["similar", *map(str, arguments)])
    if answer.exception and not isinstance(answer.exception, SystemExit):
        raise answer.exception
    return answer


def test_an_image_of_the_dataset_is_named_and_is_not_its_own_neighbor(rows):
    first, second = read_manifest(paths.MANIFEST)[:2]
    for name in (paths.DATASET / first.path, first.sha256, first.sha256.upper()):
        lines = relearn(name, "-k", 3).stdout.splitlines()
        assert len(lines) == 4
        assert lines[0].split() == ["the", "same", first.path, first.label, first.split]
        similarity, *rest = lines[1].split()
        assert rest == [second.path, second.label, second.split]
        assert 0.99 < float(similarity) <= 1
        assert [float(line.split()[0]) for line in lines[1:]] == sorted(
            (float(line.split()[0]) for line in lines[1:]), reverse=True
        )


def test_the_first_digits_of_a_hash_are_enough(rows, monkeypatch):
    first = read_manifest(paths.MANIFEST)[0]
    assert relearn(first.sha256[:6].upper(), "-k", 1).stdout == relearn(first.sha256, "-k", 1).stdout
    with pytest.raises(ImageError, match=f"{first.sha256[:5]}: cannot be read: No such file"):
        relearn(first.sha256[:5])
    twins = [row._replace(sha256="abcdef" + row.sha256[6:]) for row in read_manifest(paths.MANIFEST)[:3]]
    monkeypatch.setattr(similar, "read_manifest", lambda _: twins)
    with pytest.raises(IntegrityError, match=r"^abcdef: wanted the first digits of one SHA-256, got 3 images; "):
        relearn("abcdef")
    assert similar._find_hash(twins[1].sha256[:12], twins) == twins[1].sha256


def test_only_the_split_is_searched(rows):
    manifest = read_manifest(paths.MANIFEST)
    lines = relearn(manifest[0].sha256, "-k", 40, "--split", "evaluation").stdout.splitlines()
    assert {line.split()[-1] for line in lines[1:]} == {"evaluation"}
    assert len(lines) == 1 + sum(row.split == "evaluation" for row in manifest)
    answer = relearn("x.png", "--split", "test")
    assert answer.exit_code == 2
    assert "wanted training, validation or evaluation, got 'test'" in re.sub(r"[\s│]+", " ", answer.output)


def test_the_network_computes_what_is_not_in_the_dataset(rows, tmp_path, monkeypatch):
    (tmp_path / "new.png").write_bytes(encode_image(draw_image(99)))
    monkeypatch.setattr(similar, "compute_features", lambda content: rows[7])
    (line,) = relearn(tmp_path / "new.png", "-k", 1).stdout.splitlines()
    seventh = read_manifest(paths.MANIFEST)[7]
    assert line.split() == ["1.0000", seventh.path, seventh.label, seventh.split]


def test_the_page_needs_nothing_but_itself(rows):
    first = read_manifest(paths.MANIFEST)[0]
    answer = relearn(first.sha256, "--page", "similar.html")
    assert answer.stdout.splitlines()[-1] == "similar.html: 5 similar images"
    page = (paths.DATASET.parent.parent / "similar.html").read_text()
    assert page.count('<img src="data:image/jpeg;base64,') == 6
    assert page.count(f'alt="an image of {first.label}"') >= 1
    assert f"the same as {first.path}, {first.label}, {first.split}" in page
    assert "http" not in page.replace('<meta http-equiv="Content-Security-Policy" content="default-src \'none\'', "")
    assert "prefers-color-scheme: dark" in page


def test_what_is_no_image_is_one_line(rows, tmp_path):
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(ImageError, match=r"text\.png: not an image"):
        relearn(tmp_path / "text.png")
    with pytest.raises(ImageError, match=r"gone\.png: "):
        relearn("gone.png")


def test_names_are_one_line_each_and_show_no_secret(rows, tmp_path):
    row = ManifestRow("training/a\nb.png", "training", "x\ny", "0" * 64, 1, 1, 1, "L", "PNG")
    hostile = similar.Similar("https://me:hidden@host/x\udcff.png?token=hidden", "", [row], [Neighbor(row, 0.5)])
    assert similar.describe_similar(hostile) == [
        r"the same  training/a\nb.png  x\ny  training",
        r"  0.5000  training/a\nb.png  x\ny  training",
    ]
    similar.write_similar(tmp_path / "page.html", hostile)
    page = (tmp_path / "page.html").read_text()
    assert r"https://host/x\udcff.png?..." in page
    assert "hidden" not in page
    with pytest.raises(ImageError) as caught:
        relearn("https://me:hidden@host/x.png?token=hidden")
    assert "hidden" not in str(caught.value)


def test_features_are_needed(rows):
    (paths.FEATURES / "index.csv").write_text("changed")
    with pytest.raises(IntegrityError, match=r"index\.csv: wanted sha256"):
        relearn("x.png")
