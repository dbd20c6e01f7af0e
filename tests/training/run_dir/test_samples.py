"""The format of samples.txt."""

from lstm_jax.training.run_dir.samples import entry, split

STRICT = False


def test_an_incomplete_heading_is_dropped():
    """A full disk can leave ``=== step 4`` of ``=== step 40``."""
    complete = entry(4, "a").encode()
    for end in range(len(b"=== step 40")):
        assert split(complete + b"=== step 40"[:end], lambda step: step <= 4) == (
            b"",
            complete,
        )
