"""A TCP proxy whose answers are late: what a slow gateway looks like."""

import asyncio
import threading

CHUNK_BYTES = 65536
# Under way in one direction of one connection; then its sender waits.
CHUNKS_MOST = 1024


class DelayingProxy:
    """Listens on a free port of loopback. Every byte from `port` arrives
    `delay_ms` late; what goes there isn't held up, so that a round trip is late
    by as much and not by twice."""

    def __init__(self, host, port, delay_ms):
        self.target = (host, port)
        self.delay = delay_ms / 1000
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        listening = asyncio.run_coroutine_threadsafe(self._listen(), self.loop)
        self.url = f"http://127.0.0.1:{listening.result(10)}"

    async def _listen(self):
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=1024)
        return server.sockets[0].getsockname()[1]

    async def _connection(self, from_client, to_client):
        try:
            from_server, to_server = await asyncio.open_connection(*self.target)
        except OSError:
            to_client.close()
            return
        await asyncio.gather(
            _carry(from_client, to_server, 0), _carry(from_server, to_client, self.delay)
        )


async def _carry(reader, writer, delay):
    """Until either side has ended; then the other is told."""
    loop = asyncio.get_running_loop()
    chunks = asyncio.Queue(CHUNKS_MOST)

    async def read():
        data = b"-"
        while data:
            try:
                data = await reader.read(CHUNK_BYTES)
            except OSError:
                data = b""
            await chunks.put((loop.time() + delay, data))

    reading = asyncio.create_task(read())
    try:
        while True:
            due, data = await chunks.get()
            await asyncio.sleep(max(0, due - loop.time()))
            if not data:
                break
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        reading.cancel()
        writer.close()
