"""A file as a stream, for readers that seek or read line by line."""

import io

from dalle_jax.data.files.ranges import DataFile, read_range


class SeekableFile(io.RawIOBase):
    """A file on this machine or behind a URL as a seekable stream of bytes, as pyarrow needs it."""

    def __init__(self, file: DataFile):
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position, and return it in bytes from the start."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        self._position = start + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Read up to ``size`` bytes, by default all that are left."""
        left = max(0, self._file.size - self._position)
        content = read_range(self._file, self._position, left if size is None or size < 0 else min(size, left))
        self._position += len(content)
        return content

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read into a buffer, as ``io.BufferedReader`` does, and return the number of bytes."""
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)
