"""The size of VP9's pictures by their headers: the one codec in use in which any picture, not only a key frame, may
bring a new size, as calls do when the line gets worse.

Source: VP9 Bitstream & Decoding Process Specification 0.6, 6.2 (uncompressed header) and annex B (superframes).
"""

from __future__ import annotations

from collections.abc import Iterator

Size = tuple[int, int]
SLOTS = 8
SYNC_BITS = 24
RGB = 7  # color_space
SUPERFRAME = 0b110  # at the top of a packet's last byte


class Vp9Sizes:
    """The (width, height) of the shown pictures, given all packets from a key frame on in the order of the file."""

    def __init__(self) -> None:
        self._slots: list[Size | None] = [None] * SLOTS
        self._size: Size | None = None

    def __call__(self, packet: bytes) -> Size | None:
        """The size of the picture that a packet shows, or of the last one before; None where it cannot be told."""
        for frame in frames(packet):
            try:
                self._read(_Bits(frame))
            except EOFError:  # cut off: the decoder will say so
                break
        return self._size

    def _read(self, bits: _Bits) -> None:
        bits.read(2)  # frame_marker
        profile = bits.read(1) + 2 * bits.read(1)
        if profile == 3:
            bits.read(1)
        if bits.read(1):  # show_existing_frame
            self._size = self._slots[bits.read(3)]
            return
        is_key, shown, resilient = not bits.read(1), bits.read(1), bits.read(1)
        refreshed = (1 << SLOTS) - 1
        if is_key:
            bits.read(SYNC_BITS)
            _skip_colours(bits, profile)
            size: Size | None = bits.size()
        else:
            intra_only = 0 if shown else bits.read(1)
            if not resilient:
                bits.read(2)  # reset_frame_context
            if intra_only:
                bits.read(SYNC_BITS)
                if profile > 0:
                    _skip_colours(bits, profile)
            refreshed = bits.read(SLOTS)
            size = bits.size() if intra_only else self._size_with_references(bits)
        self._slots = [size if refreshed >> slot & 1 else old for slot, old in enumerate(self._slots)]
        if shown:
            self._size = size

    def _size_with_references(self, bits: _Bits) -> Size | None:
        references = [bits.read(4) >> 1 for _ in range(3)]  # 3 bits of index, 1 of sign
        for slot in references:
            if bits.read(1):  # found_ref
                return self._slots[slot]
        return bits.size()


class _Bits:
    """Bits of bytes, the highest first."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def read(self, count: int) -> int:
        """The next bits as a number; raises EOFError after the end."""
        value = 0
        for at in range(self._at, self._at + count):
            if at >= 8 * len(self._data):
                raise EOFError
            value = value << 1 | self._data[at >> 3] >> (7 - (at & 7)) & 1
        self._at += count
        return value

    def size(self) -> Size:
        """Width and height, each stored less one in 16 bits."""
        return self.read(16) + 1, self.read(16) + 1


def _skip_colours(bits: _Bits, profile: int) -> None:
    if profile >= 2:
        bits.read(1)  # ten_or_twelve_bit
    if bits.read(3) != RGB:
        bits.read(1)  # color_range
        if profile in (1, 3):
            bits.read(3)  # subsampling
    elif profile in (1, 3):
        bits.read(1)


def frames(packet: bytes) -> Iterator[bytes]:
    """The frames of a packet, which a superframe's index at its end divides."""
    last = packet[-1] if packet else 0
    width, count = (last >> 3 & 3) + 1, (last & 7) + 1
    index = len(packet) - 2 - width * count
    if last >> 5 != SUPERFRAME or index < 0 or packet[index] != last:
        yield packet
        return
    at = 0
    for number in range(count):
        begin = index + 1 + width * number
        size = int.from_bytes(packet[begin : begin + width], "little")
        if size:
            yield packet[at : at + size]
        at += size
