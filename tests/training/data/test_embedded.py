import hashlib

from lstm_jax.training.data.embedded import embedded_text
from tests.training.data.build import decoded

STRICT = False


def test_a_tenth_of_the_text_is_used_for_validation():
    text = embedded_text()
    train, validation, test = decoded(text)
    total = len(train) + len(validation)
    assert total > 300_000
    assert 0.08 < len(validation) / total <= 0.101
    assert test == ""
    digest = hashlib.sha256((train + validation).encode()).hexdigest()
    assert digest[:12] in text.name


def test_no_validation_topic_is_in_the_training_text():
    """Longer passages occur once: a model gains nothing by memorizing the training text."""
    train, validation, _ = decoded(embedded_text())
    train = " ".join(train.split())
    words = validation.split()
    windows = [" ".join(words[n : n + 25]) for n in range(0, len(words) - 25, 25)]
    assert len(windows) > 100
    assert sum(w in train for w in windows) / len(windows) < 0.01
