"""Readers of published layouts: miniatures of each, and what every data set has in common."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from airlib.errors import AirlibError
from airlib.images.items import ImageItem
from airlib.studies.misalignment.datasets import DATASETS, open_dataset
from airlib.studies.misalignment.datasets import visual_genome as vg
from airlib.studies.misalignment.datasets.folders import open_image_folder
from airlib.studies.misalignment.datasets.sampling import ConceptDataset

# A picture whose every pixel is different, so that a crop is known to the pixel.
PICTURE = np.stack(
    [np.tile(np.arange(96), (80, 1)), np.tile(np.arange(80)[:, None], (1, 96)), np.zeros((80, 96))],
    axis=2,
).astype(np.uint8)


def save(path: Path, pixels: np.ndarray = PICTURE, **options) -> None:
    """PNG data under any name: exact pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="PNG", **options)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    write(path, json.dumps(value, ensure_ascii=False))


def classes(dataset: ConceptDataset) -> dict[str, list[str]]:
    return {label: [i.key for i in items] for label, items in dataset.sample(100).items()}


def counts(found: dict[str, list]) -> dict[str, int]:
    return {label: len(items) for label, items in found.items()}


def pixels(item) -> np.ndarray:
    return np.array(item.read())


# --- folders of images


def test_imagenet(tmp_path):
    write(
        tmp_path / "synset_words.txt",
        "n01440764 tench, Tinca tinca\nn02012849 crane\nn03126707 crane\n"
        "n03710637 maillot\nn03710721 maillot, tank suit\nn04355933 sunglass\n",
    )
    for number in ("n01440764", "n02012849", "n03126707", "n03710637", "n03710721"):
        save(tmp_path / "train" / number / f"{number}_10.JPEG")
        save(tmp_path / "train" / number / f"{number}_9.JPEG")
    found = open_dataset("imagenet", tmp_path)
    assert classes(found) == {
        # the second crane has no word of its own
        "crane": ["train/n02012849/n02012849_10.JPEG", "train/n02012849/n02012849_9.JPEG"],
        "maillot": ["train/n03710637/n03710637_10.JPEG", "train/n03710637/n03710637_9.JPEG"],
        "tank suit": ["train/n03710721/n03710721_10.JPEG", "train/n03710721/n03710721_9.JPEG"],
        "tench": ["train/n01440764/n01440764_10.JPEG", "train/n01440764/n01440764_9.JPEG"],
    }
    assert np.array_equal(pixels(found.sample(1)["tench"][0]), PICTURE)
    (tmp_path / "train" / "n00000000").mkdir()
    with pytest.raises(AirlibError, match="n00000000.*same edition"):
        open_dataset("imagenet", tmp_path)


def test_caltech101(tmp_path):
    for name in ("BACKGROUND_Google", "Faces", "Faces_easy", "yin_yang", "car_side"):
        save(tmp_path / "101_ObjectCategories" / name / "image_0001.jpg")
    found = classes(open_dataset("caltech101", tmp_path))
    assert list(found) == ["Faces", "car side", "yin yang"]
    assert found["car side"] == ["101_ObjectCategories/car_side/image_0001.jpg"]


def test_own_folders_in_any_script(tmp_path):
    for name in ("red_panda", "Köter", "猫", ".git"):
        save(tmp_path / name / "1.PNG")
        write(tmp_path / name / "notes.txt", "not an image")
    found = open_image_folder(tmp_path, names={"Köter": "mutt"})
    assert list(classes(found)) == ["mutt", "red panda", "猫"]
    (tmp_path / "void").mkdir()
    with pytest.raises(AirlibError, match="void holds no images"):
        found = open_dataset("folder", tmp_path).sample(1)


def test_what_a_mac_leaves_in_a_zip_is_no_data(tmp_path):
    for name in ("a", "b", "c", "__MACOSX", ".hidden"):
        save(tmp_path / name / "1.png")
        (tmp_path / name / "._1.png").write_bytes(b"\0\5\x16\7 AppleDouble")
    found = classes(open_dataset("folder", tmp_path))
    assert found == {name: [f"{name}/1.png"] for name in "abc"}
    write_open_images(tmp_path / "boxes")
    before = classes(open_dataset("open_images", tmp_path / "boxes"))
    for file in [*(tmp_path / "boxes").glob("*.csv")]:
        file.with_name(f"._{file.name}").write_bytes(b"\0\5\x16\7\xff\xfe AppleDouble")
    assert classes(open_dataset("open_images", tmp_path / "boxes")) == before


@pytest.mark.parametrize("label", [None, 3, "", " \n"])
def test_a_class_needs_a_name(label):
    dataset = ConceptDataset("odd", lambda: iter([(label, ImageItem(Path(), "x"))]))
    with pytest.raises(AirlibError, match="odd has a class called"):
        dataset.sample(1)


# --- CIFAR-100


def write_cifar(folder: Path, fine: list[int]) -> np.ndarray:
    images = np.random.default_rng(0).integers(0, 256, (len(fine), 32, 32, 3), dtype=np.uint8)
    records = [
        bytes([19, c]) + i.transpose(2, 0, 1).tobytes() for c, i in zip(fine, images, strict=True)
    ]
    folder = folder / "cifar-100-binary"
    write(folder / "fine_label_names.txt", "apple\naquarium_fish\nbaby\nbear\n\n")
    (folder / "train.bin").write_bytes(b"".join(records))
    return images


def test_cifar100(tmp_path):
    images = write_cifar(tmp_path, [1, 0, 3, 1])
    found = open_dataset("cifar100", tmp_path).sample(100)
    assert counts(found) == {"apple": 1, "aquarium fish": 2, "bear": 1}
    assert np.array_equal(pixels(found["aquarium fish"][1]), images[3])
    assert np.array_equal(pixels(found["apple"][0]), images[1])


def test_damaged_cifar100(tmp_path):
    with pytest.raises(AirlibError, match="train.bin.*binary version"):
        write(tmp_path / "cifar-100-python" / "train", "a pickle")
        open_dataset("cifar100", tmp_path)
    write_cifar(tmp_path, [0, 1, 2])
    item = open_dataset("cifar100", tmp_path).sample(1)["baby"][0]
    with (tmp_path / "cifar-100-binary" / "train.bin").open("r+b") as file:
        file.truncate(3074 * 2 + 100)
    with pytest.raises(AirlibError, match="ends within image 2"):
        item.read()
    with pytest.raises(AirlibError, match="whole number"):
        open_dataset("cifar100", tmp_path)
    write_cifar(tmp_path, [0, 7])
    with pytest.raises(AirlibError, match="more classes than"):
        open_dataset("cifar100", tmp_path)
    (tmp_path / "cifar-100-binary" / "fine_label_names.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(AirlibError, match=r"fine_label_names.txt is no text in UTF-8; fetch"):
        open_dataset("cifar100", tmp_path)


# --- objects in boxes


def write_coco(folder: Path) -> None:
    def annotation(category: int, box: list[float], image: int = 139, crowd: int = 0) -> dict:
        return {"image_id": image, "category_id": category, "bbox": box, "iscrowd": crowd}

    annotations = [
        annotation(1, [10.2, 20.4, 40.1, 32.3]),
        annotation(1, [0, 0, 96, 80], crowd=1),
        annotation(1, [0, 0, 96, 31.9]),  # too low
        annotation(10, [50.6, 40, 60, 60]),  # reaches out of the picture
        annotation(13, [0, 0, 40, 40]),
        annotation(13, [0, 0, 40, 40], image=285),  # not on disk
        annotation(99, [0, 0, 5, 5]),
    ]
    names = {1: "person", 10: "traffic light", 13: "stop sign", 27: "backpack", 99: "spoon"}
    content = {
        "images": [
            {"id": 139, "file_name": "000000000139.jpg", "width": 96, "height": 80},
            {"id": 285, "file_name": "000000000285.jpg", "width": 96, "height": 80},
        ],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in names.items()],
    }
    write_json(folder / "annotations" / "instances_val2017.json", content)
    write_json(folder / "annotations" / "instances_train2017.json", {"images": "not used"})
    save(folder / "val2017" / "000000000139.jpg")


def write_open_images(folder: Path) -> None:
    write(folder / "oidv7-class-descriptions-boxable.csv", '/m/1,Cat\n/m/2,"Ice, dry"\n/m/3,Ü\n')
    header = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,"
    write(
        folder / "validation-annotations-bbox.csv",
        header + "IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside\n"
        "0001eeaf4aed83f9,xclick,/m/1,1,0.25,0.75,0.1,0.6,0,0,0,0,0\n"
        "0001eeaf4aed83f9,xclick,/m/1,1,0,1,0,1,0,0,1,0,0\n"  # a group
        "0001eeaf4aed83f9,xclick,/m/1,1,0,1,0,1,0,0,0,0,1\n"  # from inside
        "0001eeaf4aed83f9,xclick,/m/2,1,0.7,0.74,0,1,0,0,0,0,0\n"  # too narrow
        "0001eeaf4aed83f9,xclick,/m/2,1,0,1,0,1,1,1,0,1,0\n"
        "0001eeaf4aed83f9,xclick,/m/3,1,0.5,1,0.5,1,0,0,0,0,0\n"
        "00075905539074f2,xclick,/m/3,1,0.5,1,0.5,1,0,0,0,0,0\n",  # not on disk
    )
    write(folder / "oidv6-train-annotations-bbox.csv", "not used: no folder train")
    save(folder / "validation" / "0001eeaf4aed83f9.jpg")


def write_visual_genome(folder: Path) -> None:
    def thing(name: str | None, x: int, y: int, w: int, h: int) -> dict:
        names = [name, "other name"] if name else []
        return {"object_id": 1, "names": names, "synsets": [], "x": x, "y": y, "w": w, "h": h}

    first = [thing("Tree ", 1, 2, 40, 50), thing("dog", 0, 0, 33, 33), thing(None, 0, 0, 40, 40)]
    second = [
        thing("tree", 0, 0, 96, 80),
        thing("façade", -3, 40, 60, 90),
        thing("ear", 0, 0, 9, 9),
    ]
    content = [
        {"image_id": 1, "objects": first, "image_url": "https://example.org/VG_100K_2/1.jpg"},
        {"image_id": 2, "objects": second},
        {"image_id": 3, "objects": first},  # not on disk
        {"image_id": 4, "objects": []},
    ]
    write_json(folder / "objects.json", content)
    save(folder / "VG_100K_2" / "1.jpg")
    save(folder / "VG_100K" / "2.jpg")


OBJECTS = {  # name -> writer, images per class, (class, its image): what must be cut out
    "coco": (
        write_coco,
        {"person": 1, "stop sign": 1, "traffic light": 1},
        {("person", 0): PICTURE[20:53, 10:50], ("traffic light", 0): PICTURE[40:, 51:]},
    ),
    "open_images": (
        write_open_images,
        {"Cat": 1, "Ice, dry": 1, "Ü": 1},
        {("Cat", 0): PICTURE[8:48, 24:72], ("Ice, dry", 0): PICTURE},
    ),
    "visual_genome": (
        write_visual_genome,
        {"dog": 1, "façade": 1, "tree": 2},
        {("tree", 1): PICTURE[2:52, 1:41], ("façade", 0): PICTURE[40:80, 0:57]},
    ),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_in_boxes(tmp_path, name):
    write_layout, wanted, crops = OBJECTS[name]
    write_layout(tmp_path)
    found = open_dataset(name, tmp_path).sample(100)
    assert counts(found) == wanted
    for (label, index), crop in crops.items():
        assert np.array_equal(pixels(found[label][index]), crop)


@pytest.mark.parametrize("block", [2, 7, 100, 10**6])
def test_a_long_list_is_read_in_pieces(tmp_path, monkeypatch, block):
    elements = [{"a": ']}\\" é猫', "b": [1, [2.5e-3, None]]}, {}, {"c": "x" * 500}]
    monkeypatch.setattr(vg, "BLOCK", block)
    for separators in ((",", ":"), (" ,\n ", " : ")):
        text = "\n" + json.dumps(elements, ensure_ascii=False, separators=separators) + "\n"
        write(tmp_path / "list.json", text)
        assert list(vg._elements(tmp_path / "list.json")) == elements


@pytest.mark.parametrize("name", ["coco", "visual_genome"])
def test_damaged_annotations_are_named(tmp_path, name):
    {"coco": write_coco, "visual_genome": write_visual_genome}[name](tmp_path)
    file = tmp_path / {"coco": "annotations/instances_val2017.json"}.get(name, "objects.json")
    whole = file.read_text(encoding="utf-8")
    object_of = '[{"image_id": 1, "objects": [{"x": 0, "y": 0, "h": 50, %s}]}]'
    odd = ["[" * 100_000, "null", "3"]
    odd += [whole.replace('"bbox": [', '"bbox": [1e999, ')] if name == "coco" else []
    odd += [object_of % '"w": 1e999, "names": ["a"]', object_of % '"w": 50, "names": [3]']
    save(tmp_path / "VG_100K" / "1.jpg")
    for damaged in (whole[:-40], "", "[1, 2]", '{"images": []}', '[{"image_id": 1}]', "\0", *odd):
        write(file, damaged)
        with pytest.raises(AirlibError, match=f"{file.name}.*damaged"):
            open_dataset(name, tmp_path).sample(1)


# --- drawings


def test_openmoji(tmp_path):
    pytest.importorskip("resvg_py")
    svg = '<svg viewBox="0 0 2 2" xmlns="http://www.w3.org/2000/svg">{}</svg>'
    red = '<rect x="0" y="0" width="1" height="2" fill="#ff0000"/>'
    stems = ["1F44B", "1F44B-1F3FD", "2764-FE0F", "1F47B", "1F1E6", "E001", "0023-FE0F-20E3"]
    for stem in [*stems, "1F468-200D-1F373", "002D"]:
        write(tmp_path / f"{stem}.svg", svg.format(red))
    found = open_dataset("openmoji", tmp_path).sample(10)
    assert {label: [i.key for i in items] for label, items in found.items()} == {
        "ghost": ["1F47B.svg"],
        "heavy black heart": ["2764-FE0F.svg"],
        "waving hand sign": ["1F44B-1F3FD.svg", "1F44B.svg"],
    }
    drawn = pixels(found["ghost"][0])
    assert drawn.shape == (224, 224, 3)
    assert drawn[112, 50].tolist() == [255, 0, 0] and drawn[112, 150].tolist() == [255] * 3
    write(found["ghost"][0].path, "not a drawing")
    with pytest.raises(AirlibError, match="1F47B.svg"):
        found["ghost"][0].read()


# --- pictures


def test_every_colour_model_becomes_rgb(tmp_path):
    gray = Image.fromarray(PICTURE[:, :, 0])
    gray.save(tmp_path / "gray.png")
    assert np.array_equal(pixels(ImageItem(tmp_path, "gray.png")), PICTURE[:, :, [0, 0, 0]])
    Image.new("CMYK", (9, 9), (255, 0, 0, 0)).save(tmp_path / "cmyk.jpg")
    assert pixels(ImageItem(tmp_path, "cmyk.jpg"))[4, 4].tolist() == [0, 255, 255]
    palette = Image.new("P", (9, 9), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    palette.save(tmp_path / "palette.png")
    assert pixels(ImageItem(tmp_path, "palette.png"))[4, 4].tolist() == [200, 100, 50]


def test_transparent_parts_are_white(tmp_path):
    image = Image.new("RGBA", (4, 2), (200, 0, 0, 255))
    image.putpixel((0, 0), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 51))
    image.save(tmp_path / "rgba.png")
    first = pixels(ImageItem(tmp_path, "rgba.png"))[0]
    assert first.tolist() == [[255] * 3, [204] * 3, [200, 0, 0], [200, 0, 0]]
    palette = Image.new("P", (4, 2), 0)
    palette.save(tmp_path / "palette.png", transparency=0)
    assert (pixels(ImageItem(tmp_path, "palette.png")) == 255).all()


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_pictures_and_crops_are_upright(tmp_path, orientation, turns):
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(pixels(ImageItem(tmp_path, "x.png")), np.rot90(PICTURE, turns))
    crop = pixels(ImageItem(tmp_path, "x.png", (10, 20, 50, 70)))
    assert np.array_equal(crop, np.rot90(PICTURE[20:70, 10:50], turns))


def test_what_cannot_be_read_is_named(tmp_path):
    save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    for name, data in {"half": whole[: len(whole) // 2], "empty": b"", "text": b"no image"}.items():
        (tmp_path / f"{name}.png").write_bytes(data)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere")
    for name in ("half", "empty", "text", "folder", "link", "missing"):
        with pytest.raises(AirlibError, match=f"{name}.png"):
            ImageItem(tmp_path, f"{name}.png").read()
    with pytest.raises(AirlibError, match="whole.png.*outside"):
        ImageItem(tmp_path, "whole.png", (96, 0, 140, 40)).read()


# --- layouts and samples


@pytest.mark.parametrize("name", DATASETS)
def test_a_missing_layout_says_what_was_expected_where(tmp_path, name):
    with pytest.raises(AirlibError, match="nowhere.*it should hold"):
        open_dataset(name, tmp_path / "nowhere")
    with pytest.raises(AirlibError, match=str(tmp_path) if name != "folder" else "at least 3"):
        open_dataset(name, tmp_path).sample(1)


def test_annotations_without_images(tmp_path):
    write_coco(tmp_path / "coco")
    (tmp_path / "coco" / "val2017").rename(tmp_path / "elsewhere")
    with pytest.raises(AirlibError, match="no folder train2017 or val2017"):
        open_dataset("coco", tmp_path / "coco")
    write_json(tmp_path / "objects.json", [])
    with pytest.raises(AirlibError, match="no folder VG_100K"):
        open_dataset("visual_genome", tmp_path)
    with pytest.raises(AirlibError, match="choose one of imagenet"):
        open_dataset("imagnet", tmp_path)


def stream_of(names: dict[str, range]) -> ConceptDataset:
    items = [
        (label, ImageItem(Path(), f"{i}")) for label, numbers in names.items() for i in numbers
    ]
    return ConceptDataset("numbers", lambda: iter(items))


def test_a_sample_depends_on_seed_and_keys_only():
    data = {"a": range(200), "b": range(200, 300), "c": range(300, 305)}
    forward = stream_of(data).sample(20, seed=3)
    backward = stream_of({label: numbers[::-1] for label, numbers in reversed(data.items())})
    assert forward == backward.sample(20, seed=3) != stream_of(data).sample(20, seed=4)
    assert list(forward) == ["a", "b", "c"] and [len(items) for items in forward.values()] == [
        20,
        20,
        5,
    ]
    more = stream_of(data).sample(21, seed=3)
    assert set(forward["a"]) < set(more["a"]) and len(set(more["a"])) == 21


def test_a_sample_draws_all_images_equally_often():
    data = stream_of({"a": range(40), "b": range(1), "c": range(1)})
    drawn = [int(i.name) for seed in range(400) for i in data.sample(10, seed)["a"]]
    counts = np.bincount(drawn, minlength=40)
    assert counts.sum() == 4000 and abs(counts - 100).max() < 5 * np.sqrt(400 * 0.25 * 0.75)


def test_chosen_classes():
    data = stream_of({"a": range(3), "b": range(9), "c": range(5), "d": range(4)})
    chosen = data.only(lambda label: label != "b")
    assert chosen.name == data.name and counts(chosen.sample(4)) == {"a": 3, "c": 4, "d": 4}
    assert list(chosen.sample(4)) == list(chosen.sample(4)), "a new pass each time"
    with pytest.raises(AirlibError, match="at least 3"):
        data.only(lambda label: label < "c").sample(1)


def test_rare_classes_can_be_left_out():
    data = stream_of({"a": range(9), "b": range(9), "c": range(5), "d": range(4)})
    assert list(data.sample(3, fewest_images=5)) == ["a", "b", "c"]
    with pytest.raises(AirlibError, match="2 classes with 6 or more.*at least 3"):
        data.sample(3, fewest_images=6)
    with pytest.raises(AirlibError, match="at least 1"):
        data.sample(0)
