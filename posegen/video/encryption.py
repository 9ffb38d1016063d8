"""Tells files whose pictures are encrypted from damaged ones: no copy of them can be read."""

from __future__ import annotations

from pathlib import Path

from av.packet import Packet

TS_PACKET, TS_SYNC, SCRAMBLED = 188, 0x47, 0xC0
LOOKED_AT = 2000  # packets of a transport stream


def is_encrypted(packet: Packet) -> bool:
    """Whether a packet's data are encrypted, as MP4 and Matroska say (Common Encryption, ISO/IEC 23001-7)."""
    return packet.has_sidedata("encryption_info")


def is_scrambled(path: str) -> bool:
    """Whether a transport stream's packets are mostly scrambled (ISO/IEC 13818-1, 2.4.3.3)."""
    with Path(path).open("rb") as file:
        data = file.read(TS_PACKET * LOOKED_AT)
    packets = [data[at : at + TS_PACKET] for at in range(0, len(data) - TS_PACKET + 1, TS_PACKET)]
    if not packets or any(packet[0] != TS_SYNC for packet in packets):
        return False
    return sum(packet[3] & SCRAMBLED > 0 for packet in packets) > len(packets) / 2
