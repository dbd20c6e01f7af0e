import numpy as np
import pytest

from lstm_jax.training.config import ConfigError, Data
from tests.training.data.build import batches, build, write_idx, write_images

STRICT = False


@pytest.fixture
def images(tmp_path):
    write_images(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("order", "T", "I"), [("rows", 4, 3), ("pixels", 12, 1), ("permuted", 12, 1)]
)
def test_images_are_read_in_the_order_of_the_config(images, order, T, I):
    dataset = build(Data(task="images", path=images, image_order=order, batch_size=5), seed=0)
    assert (dataset.input_size, dataset.output_size, dataset.metric) == (I, 3, "accuracy")
    batch = batches(dataset, 0, 2, 5)
    assert batch.inputs.shape == (2, T, 5, I)
    assert batch.weights[:, -1].all()
    assert not batch.weights[:, :-1].any()
    assert dataset.eval.inputs.shape == (1, T, 2, I)
    assert dataset.test.inputs.shape == (2, T, 5, I)
    assert dataset.test.targets[:, -1].ravel()[:6].tolist() == [0, 1, 2, 0, 1, 2]


def test_image_orders_hold_the_same_pixels(images):
    rows, pixels, permuted = (
        build(Data(task="images", path=images, image_order=order), seed=0).test.inputs[0]
        for order in ("rows", "pixels", "permuted")
    )
    flat = rows.swapaxes(0, 1).reshape(6, 12)
    np.testing.assert_array_equal(pixels[..., 0].T, flat)
    assert (flat != permuted[..., 0].T).any()
    np.testing.assert_array_equal(np.sort(permuted[..., 0].T), np.sort(flat))


def test_images_that_cannot_be_used(images):
    labels = images / "train-labels-idx1-ubyte"
    write_idx(labels, np.arange(23))
    with pytest.raises(ConfigError, match=rf"{images}.*\b24\b.*\b23\b"):
        build(Data(task="images", path=images), seed=0)
    labels.write_bytes(labels.read_bytes()[:-1])
    with pytest.raises(ConfigError, match=rf"{labels}.*\bIDX\b.*\b1\b"):
        build(Data(task="images", path=images), seed=0)
    (images / "t10k-labels-idx1-ubyte.gz").write_bytes(b"not gzip")
    write_idx(labels, np.arange(24))
    with pytest.raises(ConfigError, match=r"data\.path.*t10k-labels-idx1-ubyte\.gz"):
        build(Data(task="images", path=images), seed=0)
    write_idx(images / "t10k-images-idx3-ubyte.gz", np.zeros((6, 5, 5)))
    write_idx(images / "t10k-labels-idx1-ubyte.gz", np.arange(6))
    with pytest.raises(ConfigError, match=r"data\.path.*\(4, 3\).*\(5, 5\)"):
        build(Data(task="images", path=images), seed=0)
    labels.write_bytes(b"\0\0")
    with pytest.raises(ConfigError, match=rf"{labels}.*\bIDX\b"):
        build(Data(task="images", path=images), seed=0)
    labels.unlink()
    with pytest.raises(ConfigError, match=rf"{images}.*{labels.name}\b.*{labels.name}\.gz"):
        build(Data(task="images", path=images), seed=0)
