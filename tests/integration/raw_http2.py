"""A gRPC call written byte by byte, with metadata that no gRPC client would send."""

import asyncio
import struct

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY = 0, 1, 3, 4, 6, 7
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _text(value: bytes) -> bytes:
    """A string of HPACK without Huffman coding (RFC 7541, 5.2), of less than 127 bytes."""
    assert len(value) < 127
    return bytes([len(value)]) + value


async def raw_call(address: str, method: str, headers: list[tuple[bytes, bytes]], message: bytes) -> bytes:
    """Make a call of one message. All frames that come back until the stream ends, as bytes."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", method.encode()),
        (b":authority", address.encode()),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        *headers,
    ]
    # Each a literal field without indexing and with a new name (RFC 7541, 6.2.2).
    block = b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields)
    writer.write(_PREFACE + _frame(_SETTINGS, 0, 0, b""))
    writer.write(_frame(_HEADERS, _END_HEADERS, 1, block))
    writer.write(_frame(_DATA, _END_STREAM, 1, struct.pack(">BI", 0, len(message)) + message))
    await writer.drain()
    seen = b""
    try:
        while True:
            head = await reader.readexactly(9)
            size, (kind, flags, stream) = int.from_bytes(head[:3]), struct.unpack(">BBI", head[3:])
            seen += head + await reader.readexactly(size)
            if kind == _SETTINGS and not flags & _ACK:
                writer.write(_frame(_SETTINGS, _ACK, 0, b""))
            ended = kind in (_HEADERS, _DATA) and flags & _END_STREAM
            if kind in (_RST_STREAM, _GOAWAY) or (stream == 1 and ended):
                return seen
    finally:
        writer.close()
