"""`facetrain evaluate` on every kind of set, from the files users have to numbers in a file."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cli import Call
from helpers.ijb import random_faces
from helpers.pairs import write_lfw

import facetrain
from facetrain.data.dataset import FaceDataset
from facetrain.data.evaluation.template_benchmark import write_template_benchmark
from facetrain.data.evaluation.verification_bin import VerificationSet, write_bin
from facetrain.engine.meter import read_run_log
from facetrain.models.weights import load_backbone


@pytest.fixture(scope="module")
def protocol(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A template benchmark in IJB-C's layout."""
    root = tmp_path_factory.mktemp("ijb")
    write_template_benchmark(root, "ijbc", random_faces(120, 24), num_impostor_pairs=500)
    return root


def test_ijb_to_numbers_a_folder_and_a_resume(
    call: Call, backbone: Path, protocol: Path, tmp_path: Path
) -> None:
    common = ("evaluate", "--backbone", backbone, "--ijb", protocol, "--protocol", "ijbc")
    out = call.done(*common, "--json", tmp_path / "a.json")
    assert "TPIR@FPIR 1e-1" in out
    numbers = json.loads((tmp_path / "a.json").read_text())["ijbc"]
    assert set(numbers) >= {
        "tar_at_far", "tar_at_far_nearest", "tar_at_far_interpolated", "tar_at_far_interval",
        "identification", "num_pairs", "num_templates", "num_images",
    }  # fmt: skip
    assert set(numbers["identification"]) == {"G1", "G2", "mean"}
    folder = tmp_path / "out"
    assert call(*common, "--out", folder, "--json", tmp_path / "b.json")[0] == 0
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    (embedded,) = (folder / "ijbc" / "embeddings").rglob("*.npz")
    code, _, err = call(*common, "--out", folder, "--no-detector-score")
    assert code == 0
    assert "1 of 1 chunks embedded" in err
    # What was embedded can be scored without a backbone, to the same numbers.
    np.save(tmp_path / "features.npy", np.load(embedded)["embedding"])
    features = ("evaluate", "--ijb", protocol, "--features", tmp_path / "features.npy")
    assert call(*features, "--json", tmp_path / "c.json")[0] == 0
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "c.json").read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("face_tid_mid.txt", None, "must hold ijbc_face_tid_mid.txt in"),
        ("template_pair_label.txt", "1 2 x\n", "line 1 must be"),
        ("template_pair_label.txt", "990001 990002 1\n", "every template must have a face"),
        ("1N_probe_mixed.csv", "template,subject\na,b\n", "line 2 must begin with"),
        ("1N_gallery_G1.csv", "template,subject\n990001,1\n", "every template must have a face"),
    ],
)
def test_bad_metadata_is_one_message_and_status_2(
    call: Call, protocol: Path, tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    meta = tmp_path / "meta"
    meta.mkdir()
    for path in (protocol / "IJBC" / "meta").iterdir():
        (meta / path.name).write_bytes(path.read_bytes())
    num_images = len((meta / "ijbc_face_tid_mid.txt").read_text().splitlines())
    np.save(tmp_path / "f.npy", np.random.default_rng(0).normal(size=(num_images, 8)))
    (meta / f"ijbc_{name}").unlink()
    if content is not None:
        (meta / f"ijbc_{name}").write_text(content)
    err = call.refused("evaluate", "--ijb", tmp_path, "--features", tmp_path / "f.npy")
    assert message in err
    assert err.count("facetrain: ") == 1


def test_lfw_from_its_official_files(call: Call, backbone: Path, tmp_path: Path) -> None:
    write_lfw(tmp_path / "lfw", half=2)
    images, pairs = tmp_path / "lfw" / "images", tmp_path / "lfw" / "pairs.txt"
    lines = ["image,hair"]
    names = [path.relative_to(images).as_posix() for path in sorted(images.rglob("*.jpg"))]
    lines += [f"{name},{'dark' if i // 3 % 2 else 'fair'}" for i, name in enumerate(names)]
    (tmp_path / "hair.csv").write_text("\n".join(lines))
    common = ("evaluate", "--backbone", backbone, "--lfw", images, "--pairs", pairs)
    options = ("--attributes", tmp_path / "hair.csv", "--out", tmp_path / "out")
    out = call.done(*common, *options, "--json", tmp_path / "a.json")
    numbers = json.loads((tmp_path / "a.json").read_text())["lfw"]
    assert numbers["num_pairs"] == 40
    assert len(numbers["fold_accuracy"]) == 10
    low, high = numbers["accuracy_interval"]
    assert low <= numbers["accuracy"] <= high
    assert numbers["interval_over"] == "identities"
    assert set(numbers["subgroups"]["hair"]["levels"]) <= {"dark", "fair"}
    assert "hair: dark | fair" in out
    assert (tmp_path / "out" / "subgroups_lfw_hair.png").is_file()
    again = call(*common, *options, "--json", tmp_path / "b.json")
    assert "finished before, skipped" in again[2]
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--lfw", "{tmp}/none"), "must be the folder of lfw's images"),
        (("--lfw", "{tmp}"), "pairs.txt: must be the list of pairs of"),
        (("--lfw", "{tmp}", "--cplfw", "{tmp}", "--pairs", "{tmp}/p"), "exactly one of --lfw"),
        (("--pairs", "{tmp}/p"), "exactly one of --lfw"),
        ((), "--lfw DIR or --ijb DIR"),
        (("--ijb", "{tmp}"), "must hold ijbc_face_tid_mid.txt"),
        (("--ijb", "{tmp}", "--folds", "5"), "--folds is of pairs"),
        (
            ("--bin", "{tmp}/a.bin", "--protocol", "ijbb", "--no-norm-weighting"),
            "--protocol, --norm-weighting: of --ijb, which is not given; add --ijb DIR",
        ),
        (("--bin", "{tmp}/a.bin", "--bin", "{tmp}/b/a.bin"), "rename one"),
        (
            ("--bin", "{tmp}/a.bin", "--lfw", "{tmp}", "--attributes", "{tmp}/a.csv"),
            "evaluate them one by one",
        ),
    ],
)
def test_bad_options_are_status_2(
    call: Call, backbone: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    filled = [argument.format(tmp=tmp_path) for argument in arguments]
    assert message in call.refused("evaluate", "--backbone", backbone, *filled)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--bin", "{tmp}/none.bin"), "none.bin: must be a verification .bin"),
        (("--bin", "{tmp}/cut.bin"), "cut.bin: "),
        (("--lfw", "{tmp}/none"), "must be the folder of lfw's images"),
        (("--ijb", "{tmp}"), "must hold ijbc_face_tid_mid.txt"),
        (("--bin", "{tmp}/two.bin"), "two.bin: the accuracy in 10 folds"),
    ],
)
def test_what_is_wrong_with_the_last_set_is_told_before_the_first_is_embedded(
    call: Call,
    backbone: Path,
    recipe: Path,
    faces: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    good = faces / "pairs.bin"
    (tmp_path / "cut.bin").write_bytes(good.read_bytes()[:-20])
    pairs = VerificationSet.open(good)
    write_bin(tmp_path / "two.bin", [pairs.encoded(i) for i in range(4)], [True, False])
    filled = [argument.format(tmp=tmp_path) for argument in arguments]
    err = call.refused("evaluate", "--backbone", backbone, "--bin", good, *filled)
    assert message in err
    assert "evaluate: pairs" not in err
    if filled[0] == "--bin":  # a training of days is not begun either
        bins = f"evaluate.bins=[{good},{filled[1]}]"
        err = call.refused("train", recipe, "--out", tmp_path / "out", bins)
        assert filled[1] in err
        assert not list(tmp_path.glob("out/**/log.jsonl"))


def test_rfw_without_a_group_is_told_before_any_is_embedded(call: Call, tmp_path: Path) -> None:
    for group in ("African", "Asian", "Caucasian", "Indian"):
        (tmp_path / "data" / group).mkdir(parents=True)
        (tmp_path / "txts" / group).mkdir(parents=True)
        if group != "Indian":
            (tmp_path / "txts" / group / f"{group}_pairs.txt").touch()
    code, out, err = call("evaluate", "--backbone", tmp_path, "--rfw", tmp_path)
    assert code == 2
    assert "Indian_pairs.txt: must be there, as RFW is distributed, but is not" in err
    assert "evaluate: African_pairs" not in out + err


def test_how_a_network_is_fed(call: Call, backbone: Path, lfw: Path, tmp_path: Path) -> None:
    """A network with its own normalisation, and one on BGR, give the numbers of the plain one."""
    onnx = pytest.importorskip("onnx")
    plain, own = tmp_path / "plain.onnx", tmp_path / "own.onnx"
    assert call("export", backbone, "--format", "onnx", "--out", plain)[0] == 0
    model = onnx.load(str(plain))
    (first,) = [node for node in model.graph.node if "data" in node.input]
    first.input[0] = "normalised"
    for name, value in (("scale", 255.0), ("mean", [0.5, 0.5, 0.5]), ("deviation", 0.5)):
        array = np.asarray(value, np.float32).reshape(-1, 1, 1)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    steps = [("Div", "data", "scale", "a"), ("Sub", "a", "mean", "b")]
    for place, (operator, left, right, out) in enumerate(
        [*steps, ("Div", "b", "deviation", "normalised")]
    ):
        model.graph.node.insert(place, onnx.helper.make_node(operator, [left, right], [out]))
    onnx.save(model, str(own))

    def numbers(file: Path, *options: object) -> dict[str, object]:
        common = ("evaluate", "--backbone", file, "--bin", lfw / "val.bin", "--no-flip")
        call.done(*common, *options, "--json", tmp_path / "n.json")
        found: dict[str, object] = json.loads((tmp_path / "n.json").read_text())["val"]
        return found

    expected = numbers(plain)
    assert numbers(own)["accuracy"] == pytest.approx(expected["accuracy"], abs=2e-3)
    assert numbers(own)["auc"] == pytest.approx(expected["auc"], abs=1e-4)
    swapped = numbers(plain, "--channel-order", "bgr")
    assert swapped["auc"] != expected["auc"]
    assert numbers(backbone, "--channel-order", "bgr")["auc"] == pytest.approx(
        swapped["auc"], abs=1e-4
    )
    assert "must tell people apart" in call.refused(
        "evaluate", "--backbone", own, "--bin", lfw / "val.bin", "--input-range", "-1,1"
    )


def test_another_input_is_another_embedding(
    call: Call, backbone: Path, faces: Path, tmp_path: Path
) -> None:
    """What a network is fed belongs to a stage: the folder is not taken for finished."""
    common = ("embed", faces, "--backbone", backbone, "--out", tmp_path / "out", "workers=0")
    embedded = []
    for options, skipped in (
        ((), False),
        ((), True),
        (("--channel-order", "bgr"), False),
        (("--channel-order", "bgr", "--input-range", "0,1"), False),
    ):
        code, _, err = call(*common, *options)
        assert code == 0, err
        assert ("finished before" in err) == skipped
        embedded.append(np.load(tmp_path / "out" / "embedding.npy").astype(np.float64))
    dataset = FaceDataset.open(faces)
    pixels = np.stack([dataset.decode(row, 32) for row in range(dataset.num_images)]) / 255
    model = load_backbone(backbone)
    for found, images in (
        (embedded[1], pixels * 2 - 1),
        (embedded[2], pixels[..., ::-1] * 2 - 1),
        (embedded[3], pixels[..., ::-1]),
    ):
        image = torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float()
        both = (model(image) + model(image.flip(3))).double().numpy()
        unit = both / np.linalg.norm(both, axis=1, keepdims=True)
        np.testing.assert_allclose(found, unit, rtol=0, atol=2e-3)  # stored as float16
    given = facetrain.load_backbone(backbone, input_range=(0, 1), channel_order="bgr")
    image = torch.from_numpy(pixels * 2 - 1).permute(0, 3, 1, 2).float()
    expected = model(torch.from_numpy(pixels[..., ::-1].copy()).permute(0, 3, 1, 2).float())
    torch.testing.assert_close(given(image), expected, rtol=1e-4, atol=1e-4)


def test_how_a_backbone_is_fed_needs_a_backbone(call: Call) -> None:
    for words in (("--input-range", "0,1"), ("--channel-order", "bgr")):
        assert "give --backbone B too" in call.refused("evaluate", "--bin", "a.bin", *words)


def test_a_backbone_is_needed(call: Call, protocol: Path) -> None:
    assert "needs --backbone" in call.refused("evaluate", "--ijb", protocol)


def test_a_list_of_ones_own_and_rfw(call: Call, backbone: Path, tmp_path: Path) -> None:
    """The same pairs as LFW's official ones give the same numbers by another list."""
    write_lfw(tmp_path / "lfw", half=2, size=32)
    images, official = tmp_path / "lfw" / "images", tmp_path / "lfw" / "pairs.txt"
    lines = []
    for line in official.read_text().splitlines()[1:]:
        words = line.split("\t")
        second = [words[0], words[2]] if len(words) == 3 else words[2:]
        paths = [f"{name}/{name}_{int(n):04d}.png" for name, n in (words[:2], second)]
        lines.append(f"{paths[0]} {paths[1]} {int(len(words) == 3)}")
    (tmp_path / "mine.txt").write_text("\n".join(lines))
    for group in ("African", "Asian", "Caucasian", "Indian"):
        (tmp_path / "rfw" / "data").mkdir(parents=True, exist_ok=True)
        (tmp_path / "rfw" / "data" / group).symlink_to(images)
        (tmp_path / "rfw" / "txts" / group).mkdir(parents=True)
        text = official.read_text().partition("\n")[2]
        (tmp_path / "rfw" / "txts" / group / f"{group}_pairs.txt").write_text(text)
    numbers = {}
    for name, options in {
        "lfw": ("--lfw", images, "--pairs", official),
        "mine": ("--images", images, "--pairs", tmp_path / "mine.txt"),
        "rfw": ("--rfw", tmp_path / "rfw"),
    }.items():
        path = tmp_path / f"{name}.json"
        out = call.done("evaluate", "--backbone", backbone, *options, "--json", path)
        assert "accept above cosine" in out
        numbers[name] = json.loads(path.read_text())
    assert list(numbers["rfw"]) == [
        f"{g}_pairs" for g in ("African", "Asian", "Caucasian", "Indian")
    ]
    assert numbers["mine"]["mine"] == numbers["lfw"]["lfw"] == numbers["rfw"]["Indian_pairs"]


def test_few_pairs_pairs_in_order_and_pairs_of_one_kind(
    call: Call, backbone: Path, lfw: Path, tmp_path: Path
) -> None:
    pairs = VerificationSet.open(lfw / "val.bin")
    images = [pairs.encoded(i) for i in range(2 * pairs.num_pairs)]

    def write(name: str, rows: np.ndarray) -> Path:
        encoded = [images[2 * row + side] for row in rows for side in (0, 1)]
        write_bin(tmp_path / name, encoded, pairs.same[rows])
        return tmp_path / name

    def numbers(*arguments: object) -> tuple[dict[str, dict[str, object]], str]:
        common = ("evaluate", "--backbone", backbone, "--json", tmp_path / "n.json", "--no-flip")
        code, _, err = call(*common, *arguments)
        assert code == 0, err
        return json.loads((tmp_path / "n.json").read_text()), err

    some = np.concatenate([np.arange(k, k + 12) for k in range(0, 1200, 60)])  # 20 runs of 12
    in_order = np.concatenate([some[pairs.same[some]], some[~pairs.same[some]]])
    bins = [write("turn.bin", some), write("order.bin", in_order)]
    found, err = numbers("--bin", bins[0], "--bin", bins[1])
    assert found["turn"] | {"folds_dealt": True} == found["order"]
    assert "order.bin: its pairs are in order" in err
    assert "turn.bin" not in err
    found, err = numbers("--bin", write("same.bin", some[pairs.same[some]]))
    assert found["same"]["accuracy"] is found["same"]["accuracy_std"] is None
    assert "same.bin: all pairs are of one person" in err
    eight = write("eight.bin", np.array([0, 60, 1, 61, 2, 62, 3, 63]))
    err = call.refused("evaluate", "--backbone", backbone, "--bin", eight)
    assert "eight.bin: the accuracy in 10 folds" in err
    assert "--folds" in err
    assert len(numbers("--bin", eight, "--folds", 4)[0]["eight"]["fold_accuracy"]) == 4


def test_a_recipe_names_any_set(
    call: Call, recipe: Path, backbone: Path, protocol: Path, tmp_path: Path
) -> None:
    write_lfw(tmp_path / "lfw", half=1)
    folder = f"{{kind: lfw, images: {tmp_path}/lfw/images, pairs: {tmp_path}/lfw/pairs.txt}}"
    overrides = (
        f"evaluate.folders=[{folder}]",
        f"evaluate.ijb.path={protocol}",
        "evaluate.ijb.bootstrap=0",
        "evaluate.ijb.workers=0",
    )
    common = ("evaluate", recipe, *overrides, "--backbone", backbone, "--out", tmp_path / "out")
    call.done(*common, "--json", tmp_path / "a.json")
    numbers = json.loads((tmp_path / "a.json").read_text())
    assert list(numbers) == ["ijbc", "lfw", "pairs"]
    assert numbers["lfw"]["num_pairs"] == 20
    assert "tar_at_far_interval" not in numbers["ijbc"]
    assert "evaluate.ijb.path must exist" in call.refused(
        "evaluate", recipe, "evaluate.ijb.path=/none", "--backbone", backbone
    )


def test_a_training_verifies_itself_on_every_set(call: Call, recipe: Path, tmp_path: Path) -> None:
    """On folders as on .bin files, in the log of the training; and says so where there is none."""
    write_lfw(tmp_path / "lfw", half=1)
    folder = f"{{kind: lfw, images: {tmp_path}/lfw/images, pairs: {tmp_path}/lfw/pairs.txt}}"
    words = ("evaluate.bins=[]", "train.evaluate_every=1")
    folders = (*words, f"evaluate.folders=[{folder}]")
    call.done("train", recipe, "--out", tmp_path / "a", *folders)
    log = [one for one in read_run_log(tmp_path / "a" / "log.jsonl") if "evaluation" in one]
    assert [one["step"] for one in log] == [4, 8]
    common = ("evaluate", recipe, *folders, "--backbone", tmp_path / "a")
    call.done(*common, "--json", tmp_path / "a.json")
    numbers = json.loads((tmp_path / "a.json").read_text())
    assert log[-1]["evaluation"]["lfw"]["accuracy"] == numbers["lfw"]["accuracy"]
    _, _, err = call("train", recipe, "--out", tmp_path / "b", *words, "train.max_steps=1")
    assert "train.evaluate_every: no set is named in evaluate to verify on" in err
