"""The text that comes with Python: topics of the language reference, English prose and code."""

import hashlib
import re

from lstm_jax.training.data.text_files import ONE_IN, ByteRange, Text


def embedded_text() -> Text:
    """Returns the topics of ``pydoc_data.topics``, split into training and validation topics.

    Topics that are contained in other topics are dropped, and a topic is used either for training or for
    validation, so that no validation passage occurs in the training text. The name includes a hash,
    because the text differs between Python releases.
    """
    from pydoc_data import topics as pydoc_topics

    topics = without_contained(pydoc_topics.topics)
    # Ordering by hash is a fixed shuffle, because alphabetical neighbours are often related.
    order = sorted(topics, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    room = sum(map(len, topics.values())) // ONE_IN
    parts: dict[bool, list[str]] = {True: [], False: []}
    for name in order:
        fits = len(topics[name]) <= room
        parts[fits].append(topics[name])
        room -= len(topics[name]) if fits else 0
    validation, train = ("\n\n".join(parts[fits]).encode() for fits in (True, False))
    digest = hashlib.sha256(train + validation).hexdigest()
    name = f"pydoc_data.topics, sha256 {digest[:12]}"
    return Text(
        name, (ByteRange(train, 0, len(train)),), (ByteRange(validation, 0, len(validation)),)
    )


def without_contained(topics: dict[str, str]) -> dict[str, str]:
    r"""Drops topics that are contained in other topics, ignoring the underlines of headings.

    >>> inner = "For\n***\n\nIt loops."
    >>> outer = "All\n***\n\nWell.\n\nFor\n===\n\nIt loops."
    >>> list(without_contained({"for": inner, "compound": outer, "if": "If so."}))
    ['compound', 'if']
    """
    bare = {name: _without_underlines(text) for name, text in topics.items()}
    distinct: dict[str, str] = {}
    for name in sorted(topics, key=lambda name: len(bare[name]), reverse=True):
        if not any(bare[name] in bare[other] for other in distinct):
            distinct[name] = topics[name]
    return {name: distinct[name] for name in sorted(distinct)}


def _without_underlines(text: str) -> str:
    return " ".join(re.sub(r"^[*=\-~^\"]{3,}$", "", text, flags=re.MULTILINE).split())
