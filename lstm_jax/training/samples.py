r"""The format of ``samples.txt``: a heading with the step, the text, an empty line.

A line of a text that looks like a heading is written with a backslash in front.

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
>>> keep(content.encode(), lambda step: step <= 20) == entry(20, "a\n=== step 5\r\n").encode()
True
"""

import re
from collections.abc import Callable

HEADING = "=== step "
_ENTRY = re.compile(rb"^=== step (\d+)$", re.MULTILINE)


def entry(step: int, text: str) -> str:
    """Returns what is appended to the file for a sample."""
    escaped = re.sub(rf"^(?=\\*{HEADING})", r"\\", text, flags=re.MULTILINE)
    return f"{HEADING}{step}\n{escaped}\n\n"


def keep(content: bytes, wanted: Callable[[int], bool]) -> bytes:
    """Returns the samples of the wanted steps. Text before the first heading is kept too."""
    before, *rest = _ENTRY.split(content)
    entries = zip(rest[::2], rest[1::2], strict=True)
    heading = HEADING.encode()
    return before + b"".join(heading + step + text for step, text in entries if wanted(int(step)))
