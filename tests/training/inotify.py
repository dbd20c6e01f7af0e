"""The file system events of a process, as Linux reports them."""

import ctypes
import os
import struct
from pathlib import Path

MODIFY, CLOSE_WRITE, MOVED_TO, CREATE, DELETE = 0x2, 0x8, 0x80, 0x100, 0x200
IS_DIRECTORY = 0x40000000
NONBLOCK = 0x800

_libc = ctypes.CDLL(None, use_errno=True)


class Watch:
    """Counts what is created, written, closed, renamed and deleted below a directory."""

    def __init__(self, root: Path):
        self.file = _libc.inotify_init1(NONBLOCK)
        self.folders: dict[int, Path] = {}
        self._add(root)

    def _add(self, folder: Path) -> None:
        mask = MODIFY | CLOSE_WRITE | MOVED_TO | CREATE | DELETE
        number = _libc.inotify_add_watch(self.file, os.fsencode(folder), mask)
        if number < 0:  # it is gone again
            return
        self.folders[number] = folder
        for path in folder.iterdir():  # what was made before the watch was there
            if path.is_dir():
                self._add(path)

    def events(self) -> list[str]:
        """Returns a description of each event since the last call."""
        try:
            content, at, found = os.read(self.file, 1 << 16), 0, []
        except BlockingIOError:
            return []
        while at < len(content):
            number, mask, _, length = struct.unpack_from("iIII", content, at)
            name = content[at + 16 : at + 16 + length].rstrip(b"\0").decode()
            at += 16 + length
            if number not in self.folders:
                continue
            path = self.folders[number] / name
            found.append(f"{mask:x} {path.name}")
            if mask & IS_DIRECTORY and mask & (CREATE | MOVED_TO) and path.is_dir():
                self._add(path)
        return found

    def close(self) -> None:
        os.close(self.file)
