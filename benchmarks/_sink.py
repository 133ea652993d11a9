"""A sink for benchmarks, run as a process of its own so that its CPU is not counted: answers every POST at once.

`python benchmarks/_sink.py` prints its port on the first line. It reads each body, counts it, and answers 200; for
`/v1/records` with the receipt of a server that stored everything. `GET /count` tells how many records came.
"""

from __future__ import annotations

import asyncio
import gzip
import sys


class Sink:
    """Counts what it is sent."""

    def __init__(self) -> None:
        self.records = 0
        self.requests = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                request, _, rest = head.partition(b"\r\n")
                headers = {
                    k.strip().lower(): v.strip()
                    for k, _, v in (line.partition(b":") for line in rest.split(b"\r\n") if line)
                }
                body = await reader.readexactly(int(headers.get(b"content-length", b"0")))
                answer = self.take(request, headers, body)
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                    % (len(answer), answer)
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def take(self, request: bytes, headers: dict[bytes, bytes], body: bytes) -> bytes:
        """Count a request and return its answer."""
        if b" /count" in request:
            return b'{"records":%d,"requests":%d}' % (self.records, self.requests)
        self.requests += 1
        if b"/v1/records" in request:
            if headers.get(b"content-encoding") == b"gzip":
                body = gzip.decompress(body)
            lines = body.count(b"\n")
            self.records += lines
            return b'{"committed":%d,"refused":[]}' % lines
        return b""


async def main() -> None:
    """Serve until standard input closes: the sink never outlives the benchmark that started it."""
    server = await asyncio.start_server(Sink().serve, "127.0.0.1", 0, limit=1 << 26)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
