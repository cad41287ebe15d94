"""Data sets of one folder per class: your own, ImageNet and Caltech-101; whole images are used.

DIRECTORY/CLASS/*.jpg                       your own; a class is called as its folder
DIRECTORY/train/n01440764/*.JPEG            ImageNet (ILSVRC 2012), whose folders are WordNet
DIRECTORY/synset_words.txt                  numbers; the words are in this file, a line
                                            "n01440764 tench, Tinca tinca" per class, which
                                            Kaggle's edition calls LOC_synset_mapping.txt
DIRECTORY/101_ObjectCategories/CLASS/*.jpg  Caltech-101
"""

from collections.abc import Mapping
from pathlib import Path

from airlib.documents import read_text
from airlib.errors import AirlibError
from airlib.images.folders import IMAGE_SUFFIXES, is_hidden, picture_names
from airlib.images.items import ImageItem
from airlib.studies.misalignment.datasets.layout import required_files, required_folder
from airlib.studies.misalignment.datasets.sampling import ConceptDataset, Stream

SYNSET_FILES = ("synset_words.txt", "LOC_synset_mapping.txt")
# No concepts: random pictures of the web, and a second, cropped copy of the class "Faces".
CALTECH_EXTRAS = {"BACKGROUND_Google", "Faces_easy"}


def open_image_folder(directory: Path, names: Mapping[str, str] | None = None) -> ConceptDataset:
    """Your own images: one class per sub-folder of `directory`, called as the sub-folder,
    underscores being spaces, or names[sub-folder].

    Sub-folders of one name are one class; hidden ones and `__MACOSX` are ignored. Raises
    AirlibError if there is no such directory; reading a sub-folder without images raises it later.
    """
    required_folder(directory, "a sub-folder of images per class")
    names = names or {}
    labels = {f: names.get(f.name, f.name.replace("_", " ")) for f in _folders(directory)}
    return ConceptDataset("image_folder", lambda: _stream(directory, labels))


def open_caltech101(directory: Path) -> ConceptDataset:
    """Caltech-101: 100 classes, without the background and the second copy of the faces.

    directory: holds `101_ObjectCategories/`. Raises AirlibError if it does not.
    """
    categories = directory / "101_ObjectCategories"
    required_folder(categories, "a folder per class, from 101_ObjectCategories.tar.gz")
    folders = [f for f in _folders(categories) if f.name not in CALTECH_EXTRAS]
    labels = {f: f.name.replace("_", " ") for f in folders}
    return ConceptDataset("caltech101", lambda: _stream(directory, labels))


def open_imagenet(directory: Path) -> ConceptDataset:
    """The training images of ImageNet, under the first synonym that no earlier class has.

    A class without a word of its own is left out: the text could not tell its images from others
    (the second "crane", a machine; the first is a bird).

    directory: holds `train/` and a file of synset words. Raises AirlibError if one is missing, and
    for a class folder that the words do not name.
    """
    required_folder(directory / "train", "a folder per class such as n01440764")
    files = required_files(directory, SYNSET_FILES, 'lines such as "n01440764 tench, Tinca tinca"')
    words = _synset_words(files[0])
    folders = _folders(directory / "train")
    unknown = [folder.name for folder in folders if folder.name not in words]
    if unknown:
        raise AirlibError(
            f"{directory}/train has the folder {unknown[0]}, which the file of synset words does "
            "not name; take the file of the same edition of ImageNet"
        )
    labels = {f: words[f.name] for f in folders if words[f.name]}
    return ConceptDataset("imagenet", lambda: _stream(directory, labels))


def _folders(directory: Path) -> list[Path]:
    return sorted(f for f in directory.iterdir() if f.is_dir() and not is_hidden(f.name))


def _synset_words(path: Path) -> dict[str, str]:
    """{WordNet number: label}; the label is "" where all words are taken."""
    synonyms = {}
    for line in read_text(path, "take the file of your edition of ImageNet").splitlines():
        number, _, words = line.partition(" ")
        synonyms[number] = [word.strip() for word in words.split(",")]
    labels: dict[str, str] = {}
    taken: set[str] = set()
    for number, choices in sorted(synonyms.items()):
        labels[number] = next((word for word in choices if word not in taken), "")
        taken.add(labels[number])
    return labels


def _stream(root: Path, labels: Mapping[Path, str]) -> Stream:
    """All images of the folders, in alphabetical order."""
    for folder, label in labels.items():
        names = picture_names(folder)
        if not names:
            kinds = ", ".join(sorted(IMAGE_SUFFIXES))
            raise AirlibError(
                f"class folder {folder.name} holds no images ({kinds}); add some or remove it"
            )
        for name in names:
            yield label, ImageItem(root, (folder / name).relative_to(root).as_posix())
