from lstm_jax.training.data.vocabulary import UNKNOWN, Vocabulary

STRICT = False


def test_the_vocabulary_is_that_of_the_training_text():
    vocabulary = Vocabulary.of("hello")
    assert vocabulary.symbols == (UNKNOWN, "e", "h", "l", "o")
    assert vocabulary.decode(vocabulary.encode("hello")) == "hello"
    assert vocabulary.encode("hey").tolist() == [2, 1, 0]


def test_a_vocabulary_can_be_saved(tmp_path):
    vocabulary = Vocabulary.of("to be, or not to be", unit="word")
    assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary
