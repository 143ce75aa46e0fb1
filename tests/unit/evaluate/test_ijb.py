"""IJB's protocols against their definition, template by template (tests/helpers/ijb.py)."""

import json

import numpy as np
import pytest
from helpers.ijb import (
    D,
    Linear,
    folder_faces,
    random_faces,
    slow_features,
    slow_identification,
    slow_templates,
    slow_verification,
    synthetic_faces,
)
from sklearn.metrics import roc_curve

from facetrain.core.errors import ConfigError, DataError
from facetrain.data.evaluation.template_benchmark import LooseFace, write_template_benchmark
from facetrain.data.features import load_features
from facetrain.data.images.align import ARCFACE_POINTS
from facetrain.data.synthetic import SyntheticConfig
from facetrain.dist.mesh import Mesh
from facetrain.evaluate import ijb, ijb_embedding
from facetrain.evaluate.ijb import IjbConfig, evaluate_ijb

WEIGHTINGS = [(True, True), (True, False), (False, True), (False, False)]


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """230 noise images of 40 subjects."""
    root = tmp_path_factory.mktemp("noise")
    faces = random_faces(230, 40)
    write_template_benchmark(root, "ijbb", faces, num_impostor_pairs=2000)
    return root


def equal(found, expected):
    """To 1e-9; None only where None is expected."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, dict):
            equal(found[name], value)
        elif value is None:
            assert found[name] is None, name
        else:
            assert abs(found[name] - value) < 1e-9, name


def check(root, protocol, numbers, templates):
    """The numbers against the slow ones."""
    similarity, same, tar = slow_verification(root, protocol, templates)
    assert numbers["num_pairs"] == len(same)
    assert numbers["num_impostor_pairs"] == int((~same).sum())
    equal(numbers["tar_at_far"], tar)
    # As arcface_torch prints it: the default curve, turned around, the nearest FAR of all.
    far, tpr, _ = roc_curve(same, similarity)
    far, tpr = far[::-1], tpr[::-1]
    for name, value in numbers["tar_at_far_nearest"].items():
        _, point = min(zip(abs(far - float(name)), range(len(far)), strict=True))
        assert abs(value - tpr[point]) < 1e-9, name
    far, tpr, _ = roc_curve(same, similarity, drop_intermediate=False)
    for name, value in numbers["tar_at_far_interpolated"].items():
        x0, x1 = far[far <= float(name)].max(), far[far > float(name)].min()
        y0, y1 = tpr[far == x0].max(), tpr[far == x1].max()
        assert abs(value - (y0 + (y1 - y0) * (float(name) - x0) / (x1 - x0))) < 1e-9, name
    galleries = [name for name in numbers["identification"] if name != "mean"]
    slow = [slow_identification(root, protocol, templates, name) for name in galleries]
    for name, expected in zip(galleries, slow, strict=True):
        found = dict(numbers["identification"][name])
        thresholds = found.pop("threshold_at_fpir")  # its values: tests/contract/test_evaluate.py
        assert thresholds.keys() == expected["tpir_at_fpir"].keys()
        equal(found, expected)
    mean = numbers["identification"]["mean"]
    for k in (1, 5, 10):
        assert abs(mean[f"rank_{k}"] - np.mean([s[f"rank_{k}"] for s in slow])) < 1e-9


@pytest.mark.parametrize(("norm_weighting", "detector_score"), WEIGHTINGS)
def test_images_of_noise(noise, norm_weighting, detector_score):
    config = IjbConfig(
        path=noise,
        protocol="ijbb",
        norm_weighting=norm_weighting,
        detector_score=detector_score,
        batch_size=50,
        workers=0,
        bootstrap=0,
    )
    numbers = evaluate_ijb(config, Linear(), Mesh.single())["ijbb"]
    templates = slow_templates(
        noise,
        "ijbb",
        slow_features(noise, "ijbb"),
        norm_weighting=norm_weighting,
        detector_score=detector_score,
    )
    check(noise, "ijbb", numbers, templates)
    # A control: the numbers must be able to differ from one weighting to the next.
    assert 0.02 < numbers["tar_at_far"]["1e-2"] < 0.9


def test_synthetic_faces(tmp_path):
    config = SyntheticConfig(num_identities=24, min_images=3, max_images=9, size=48)
    write_template_benchmark(tmp_path, "ijbc", synthetic_faces(config), num_impostor_pairs=1500)
    options = IjbConfig(path=tmp_path, flip=False, batch_size=50, workers=0, bootstrap=0)
    numbers = evaluate_ijb(options, Linear(), Mesh.single())["ijbc"]
    features = slow_features(tmp_path, "ijbc", flip=False)
    check(tmp_path, "ijbc", numbers, slow_templates(tmp_path, "ijbc", features))


def test_real_faces_with_detected_landmarks(lfw, tmp_path):
    faces = folder_faces(lfw / "folder", lfw / "folder_5pts.csv")
    write_template_benchmark(tmp_path, "ijbc", faces, num_impostor_pairs=2000)
    options = IjbConfig(path=tmp_path, batch_size=50, workers=0, bootstrap=0)
    numbers = evaluate_ijb(options, Linear(), Mesh.single())["ijbc"]
    check(
        tmp_path, "ijbc", numbers, slow_templates(tmp_path, "ijbc", slow_features(tmp_path, "ijbc"))
    )


def test_real_features(lfw, tmp_path):
    features = load_features(lfw / "features_mobilefacenet.npz")
    embedding = features.embedding
    faces = [LooseFace(int(one), None, ARCFACE_POINTS) for one in features.label]
    own = [i for i, face in enumerate(faces) if face.subject % 8 < 2]
    order = write_template_benchmark(
        tmp_path, "ijbc", [faces[i] for i in own], num_impostor_pairs=20_000
    )
    path = tmp_path / "features.npy"
    np.save(path, embedding[np.array(own)[order]])
    config = IjbConfig(path=tmp_path, features=path, bootstrap=0)
    numbers = evaluate_ijb(config, None, Mesh.single())["ijbc"]
    # The faces are the arrays' rows, so features in the lists' order are known to belong.
    check(tmp_path, "ijbc", numbers, slow_templates(tmp_path, "ijbc", np.load(path)))
    assert numbers["tar_at_far"]["1e-3"] > 0.9  # a network of 98.8 % on LFW; shuffled rows fail
    np.save(path, np.random.default_rng(0).permutation(np.load(path)))
    assert evaluate_ijb(config, None, Mesh.single())["ijbc"]["tar_at_far"]["1e-3"] < 0.1


def test_kill_and_resume_embed_each_image_once(noise, tmp_path, monkeypatch):
    monkeypatch.setattr(ijb_embedding, "CHUNK", 40)
    config = IjbConfig(path=noise, protocol="ijbb", batch_size=16, workers=0, bootstrap=20)
    whole = ijb.run(config, Linear(), tmp_path / "whole", Mesh.single(), inputs={"backbone": "b"})
    stopped = Linear(stop_at=300)  # both views of some 150 images: three chunks of 40 are finished
    with pytest.raises(KeyboardInterrupt):
        ijb.run(config, stopped, tmp_path / "out", Mesh.single(), inputs={"backbone": "b"})
    assert len(list((tmp_path / "out" / "embeddings").rglob("*.npz"))) == 3
    assert not (tmp_path / "out" / "manifest.json").exists()
    resumed = Linear()
    done = ijb.run(config, resumed, tmp_path / "out", Mesh.single(), inputs={"backbone": "b"})
    assert resumed.num_images == 2 * (230 - 3 * 40)
    assert done.metrics == whole.metrics
    assert json.loads((tmp_path / "out" / "verification.json").read_text()) == whole.metrics
    # Another weighting scores again, without embedding again; another backbone embeds.
    other = config.model_copy(update={"detector_score": False})
    again = Linear()
    changed = ijb.run(other, again, tmp_path / "out", Mesh.single(), inputs={"backbone": "b"})
    assert again.num_images == 0
    assert changed.metrics["ijbb"]["auc"] != whole.metrics["ijbb"]["auc"]
    ijb.run(other, again, tmp_path / "out", Mesh.single(), inputs={"backbone": "c"})
    assert again.num_images == 460
    with np.load(tmp_path / "out" / "roc.npz") as curve:
        assert curve["far"][-1] == curve["tar"][-1] == 1


def test_damaged_pieces_are_embedded_again(noise, tmp_path, monkeypatch):
    monkeypatch.setattr(ijb_embedding, "CHUNK", 40)
    config = IjbConfig(path=noise, protocol="ijbb", batch_size=16, workers=0, bootstrap=20)
    whole = ijb.run(config, Linear(), tmp_path, Mesh.single(), inputs={"backbone": "b"})
    bit, empty, good, flat, one, *_ = sorted((tmp_path / "embeddings").rglob("*.npz"))
    content = bytearray(bit.read_bytes())
    content[len(content) // 2] ^= 1
    bit.write_bytes(content)
    empty.write_bytes(b"")
    np.savez(flat, embedding=np.zeros(40, np.complex64))
    one.write_bytes(good.read_bytes())  # whole, but of other images
    again = Linear()  # the damage is seen though the stage was finished
    repeated = ijb.run(config, again, tmp_path, Mesh.single(), inputs={"backbone": "b"})
    assert again.num_images == 2 * 4 * 40
    assert repeated.metrics == whole.metrics


def test_intervals_are_over_subjects_and_hold_the_value(noise):
    config = IjbConfig(path=noise, protocol="ijbb", workers=0, bootstrap=100)
    numbers = evaluate_ijb(config, Linear(), Mesh.single())["ijbb"]
    assert numbers["interval_over"] == "identities"
    low, high = numbers["tar_at_far_interval"]["1e-2"]
    assert low < numbers["tar_at_far"]["1e-2"] < high
    assert numbers["tar_at_far_interval"]["1e-6"] is None


def copy_of(noise, tmp_path):
    """The lists of `noise`, to be broken."""
    meta = tmp_path / "IJBB" / "meta"
    meta.mkdir(parents=True)
    for path in (noise / "IJBB" / "meta").iterdir():
        (meta / path.name).write_bytes(path.read_bytes())
    features = tmp_path / "features.npy"
    np.save(features, np.random.default_rng(0).normal(size=(230, D)).astype(np.float32))
    return meta, IjbConfig(path=tmp_path, protocol="ijbb", features=features, bootstrap=0)


def edit(path, line, text):
    lines = path.read_text().splitlines()
    lines[line - 1] = text
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("name", "line", "text", "message"),
    [
        ("face_tid_mid.txt", 7, "7.jpg 12", r"line 7 must be 'image template media'.*'7.jpg 12'"),
        ("face_tid_mid.txt", 7, "7.jpg 1.5 2", r"line 7 must be .* got '7.jpg 1.5 2'"),
        ("name_5pts_score.txt", 3, "3.jpg 1 2 3", r"line 3 must be .*a name and 11 numbers"),
        ("name_5pts_score.txt", 3, "x.jpg" + " 1" * 11, r"line 3 must be about 3.jpg.*got x.jpg"),
        ("name_5pts_score.txt", 3, "3.jpg" + " nan" * 11, r"line 3 must be"),
        ("template_pair_label.txt", 5, "1 2", r"line 5 must be .*got '1 2'"),
        ("template_pair_label.txt", 5, "1 x 0", r"line 5 must be .*got '1 x 0'"),
        ("template_pair_label.txt", 5, "-1 2 0", r"line 5 must be .*got '-1 2 0'"),
        ("template_pair_label.txt", 5, "99999 99998 0", r"2 have none \(template 99999\)"),
        ("1N_gallery_S1.csv", 2, "99999,3,", r"gallery_S1.csv: every template .*template 99999"),
        ("1N_gallery_S2.csv", 3, "one,3,", r"line 3 must begin with template,subject"),
        ("1N_probe_mixed.csv", 4, "7", r"line 4 must begin with template,subject"),
        ("1N_probe_mixed.csv", 3, f"{2**63},1", r"line 3 must begin with template,subject"),
    ],
)
def test_bad_lines_are_named(noise, tmp_path, name, line, text, message):
    meta, config = copy_of(noise, tmp_path)
    evaluate_ijb(config, None, Mesh.single())  # the copy itself is whole
    edit(meta / f"ijbb_{name}", line, text)
    with pytest.raises(DataError, match=message):
        evaluate_ijb(config, None, Mesh.single())


def test_a_bad_label_is_named(noise, tmp_path):
    meta, config = copy_of(noise, tmp_path)
    path = meta / "ijbb_template_pair_label.txt"
    a, b, _ = path.read_text().split()[:3]
    edit(path, 1, f"{a} {b} 2")
    with pytest.raises(DataError, match=r"third column must be 1 .* got 2"):
        evaluate_ijb(config, None, Mesh.single())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("face_tid_mid.txt", r"must hold ijbb_face_tid_mid.txt in .*IJBB/meta or .*/meta"),
        ("name_5pts_score.txt", r"name_5pts_score.txt: must be a text file"),
        ("template_pair_label.txt", r"pair_label.txt: must be the list of template pairs"),
        ("1N_gallery_S2.csv", r"but lacks ijbb_1N_gallery_S2.csv"),
    ],
)
def test_missing_files_are_named(noise, tmp_path, name, message):
    meta, config = copy_of(noise, tmp_path)
    (meta / f"ijbb_{name}").unlink()
    with pytest.raises(DataError, match=message):
        evaluate_ijb(config, None, Mesh.single())


def test_both_roots_are_accepted_and_1n_is_optional(noise, tmp_path):
    meta, config = copy_of(noise, tmp_path)
    whole = evaluate_ijb(config, None, Mesh.single())
    inner = config.model_copy(update={"path": tmp_path / "IJBB"})
    assert evaluate_ijb(inner, None, Mesh.single()) == whole
    for path in meta.glob("*_1N_*"):
        path.unlink()
    expected = dict(whole["ijbb"])
    del expected["identification"]
    assert evaluate_ijb(config, None, Mesh.single()) == {"ijbb": expected}


def test_embeddings_that_cannot_be_used_are_refused(noise, tmp_path):
    _, config = copy_of(noise, tmp_path)
    features = np.load(tmp_path / "features.npy")
    np.save(tmp_path / "features.npy", features[:100])
    with pytest.raises(DataError, match=r"of shape \(230, any\), but is .* \(100, 12\)"):
        evaluate_ijb(config, None, Mesh.single())
    (tmp_path / "features.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"must be embeddings .* is no whole \.npy"):
        evaluate_ijb(config, None, Mesh.single())
    features[5] = 0
    np.save(tmp_path / "features.npy", features)
    with pytest.raises(DataError, match=r"1 of 230 are \(6.jpg\)"):
        evaluate_ijb(config, None, Mesh.single())
    with pytest.raises(ConfigError, match="give a --backbone"):
        evaluate_ijb(IjbConfig(path=noise, protocol="ijbb"), None, Mesh.single())


def test_a_template_without_a_face_that_counts_is_named(noise, tmp_path):
    meta, config = copy_of(noise, tmp_path)
    template = (meta / "ijbb_face_tid_mid.txt").read_text().split()[1]
    faces = [line.split() for line in (meta / "ijbb_face_tid_mid.txt").read_text().splitlines()]
    path = meta / "ijbb_name_5pts_score.txt"
    for number, (face, line) in enumerate(
        zip(faces, path.read_text().splitlines(), strict=True), 1
    ):
        if face[1] == template:
            edit(path, number, line.rpartition(" ")[0] + " 0")
    with pytest.raises(DataError, match=rf"those of templates \[{template}\] sum to nothing"):
        evaluate_ijb(config, None, Mesh.single())


def test_an_image_that_cannot_be_aligned_is_named(noise, tmp_path):
    meta, config = copy_of(noise, tmp_path)
    config = config.model_copy(update={"features": None, "workers": 0})
    with pytest.raises(DataError, match=r"loose_crop/1.jpg: must be an image of the protocol"):
        evaluate_ijb(config, Linear(), Mesh.single())
    crops = tmp_path / "IJBB" / "loose_crop"
    crops.symlink_to(noise / "IJBB" / "loose_crop")
    edit(meta / "ijbb_name_5pts_score.txt", 3, "3.jpg" + " 5" * 10 + " 1")
    with pytest.raises(DataError, match=r"3.jpg: landmarks must be finite and apart"):
        evaluate_ijb(config, Linear(), Mesh.single())
