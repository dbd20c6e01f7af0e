r"""The format of ``samples.txt``: a heading with the step, the text, and an empty line.

A line of a text that looks like a heading is escaped with a backslash.

>>> content = entry(20, "a\n=== step 5\r\n") + entry(40, "b")
>>> print(content.replace("\r", "<CR>"))
=== step 20
a
\=== step 5<CR>
<BLANKLINE>
<BLANKLINE>
=== step 40
b
<BLANKLINE>
<BLANKLINE>
>>> split(content.encode(), lambda step: step > 20)
(b'', b'=== step 40\nb\n\n')
"""

import re
from collections.abc import Callable

HEADING = "=== step "
_ENTRY = re.compile(rb"^=== step (\d+)$", re.MULTILINE)


def entry(step: int, text: str) -> str:
    """Formats a sample for samples.txt."""
    escaped = re.sub(rf"^(?=\\*{HEADING})", r"\\", text, flags=re.MULTILINE)
    return f"{HEADING}{step}\n{escaped}\n\n"


def split(content: bytes, predicate: Callable[[int], bool]) -> tuple[bytes, bytes]:
    """Returns the text before the first heading, and the samples whose step satisfies a predicate.

    An incomplete last line, the result of an interrupted write, is dropped.
    """
    content = content[: content.rfind(b"\n") + 1]
    before, *rest = _ENTRY.split(content)
    entries = zip(rest[::2], rest[1::2], strict=True)
    heading = HEADING.encode()
    samples = (heading + step + text for step, text in entries if predicate(int(step)))
    return before, b"".join(samples)
