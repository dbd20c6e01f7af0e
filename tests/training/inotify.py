"""File system events below a directory, with inotify."""

import ctypes
import os
import struct
from pathlib import Path

MODIFY, CLOSE_WRITE, MOVED_TO, CREATE, DELETE = 0x2, 0x8, 0x80, 0x100, 0x200
IS_DIRECTORY = 0x40000000
NONBLOCK = 0x800

_libc = ctypes.CDLL(None, use_errno=True)


class Watch:
    """Reports files that are created, written, closed, renamed or deleted below a directory."""

    def __init__(self, root: Path):
        self.file = _libc.inotify_init1(NONBLOCK)
        self.directories: dict[int, Path] = {}
        self._add(root)

    def _add(self, directory: Path) -> None:
        mask = MODIFY | CLOSE_WRITE | MOVED_TO | CREATE | DELETE
        number = _libc.inotify_add_watch(self.file, os.fsencode(directory), mask)
        if number < 0:  # the directory was deleted
            return
        self.directories[number] = directory
        for path in directory.iterdir():  # directories that were created before the watch
            if path.is_dir():
                self._add(path)

    def events(self) -> list[str]:
        """Returns a description of each event since the last call."""
        try:
            content, position, found = os.read(self.file, 1 << 16), 0, []
        except BlockingIOError:
            return []
        while position < len(content):
            number, mask, _, length = struct.unpack_from("iIII", content, position)
            name = content[position + 16 : position + 16 + length].rstrip(b"\0").decode()
            position += 16 + length
            if number not in self.directories:
                continue
            path = self.directories[number] / name
            found.append(f"{mask:x} {path.name}")
            if mask & IS_DIRECTORY and mask & (CREATE | MOVED_TO) and path.is_dir():
                self._add(path)
        return found

    def close(self) -> None:
        os.close(self.file)
