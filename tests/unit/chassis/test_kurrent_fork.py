"""A service on KurrentDB starts other programs: gRPC must keep out of the children."""

import os
import subprocess
import sys

_SERVICE = """
import ridges.chassis.kurrent
import asyncio, grpc, subprocess

async def main():
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await grpc.aio.insecure_channel(f"127.0.0.1:{port}").channel_ready()
    for _ in range(40):
        subprocess.run(["true"], preexec_fn=lambda: None, check=True)
        await asyncio.sleep(0)

asyncio.run(main())
"""


def test_children_of_a_service_with_a_kurrent_connection_hear_nothing_of_it():
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}
    ended = subprocess.run([sys.executable, "-c", _SERVICE], check=False, env=plain, capture_output=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, b"")
