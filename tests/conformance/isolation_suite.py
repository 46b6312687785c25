"""What holds besides ``SandboxSuite`` for the adapters that isolate."""

import asyncio

from sandboxes import python, sandbox_spec, tar_of

from ridges.sandbox_manager.guarantees import guarantees

LOOK = """
import ctypes, os, socket
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
facts = {
    "uid": os.getuid(),
    "caps": [int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")],
    "no_new_privs": ctypes.CDLL(None).prctl(39, 0, 0, 0, 0),
    "seccomp": status["Seccomp"].strip(),
    "interfaces": [name for _, name in socket.if_nameindex()],
    "core": __import__("resource").getrlimit(__import__("resource").RLIMIT_CORE),
}
print(repr(facts))
"""


class IsolationSuite:
    counts = True
    """Whether a control group counts for this adapter on this machine."""

    async def looked(self, sandbox, *command, **changes):
        return await sandbox.run(sandbox_spec(*command, **changes), asyncio.Event())

    async def test_no_privileges_and_no_network(self, sandbox):
        end = await self.looked(sandbox, *python(LOOK))
        assert eval(end.log) == {
            "uid": 1000,
            "caps": [0] * 5,
            "no_new_privs": 1,
            "seccomp": "2",
            "interfaces": ["lo"],
            "core": (0, 0),
        }

    async def test_nothing_is_writable_but_the_temporary_file_systems(self, sandbox):
        find = (
            "import os\n"
            "for top, dirs, _ in os.walk('/'):\n"
            "    dirs[:] = [d for d in dirs if (top + '/' + d).replace('//', '/') not in"
            " ('/proc', '/sys', '/sandbox', '/tmp', '/home/agent', '/dev/shm', '/usr/share', '/usr/lib')]\n"
            "    try:\n"
            "        open(top + '/.probe', 'w'); print(top)\n"
            "    except OSError: pass\n"
        )
        end = await self.looked(sandbox, *python(find))
        assert end.log == b""

    async def test_the_disk_is_limited(self, sandbox):
        end = await self.looked(
            sandbox, "bash", "-c", "head -c 40M /dev/zero > x; echo $?; head -c 20M /dev/zero > y; echo $?"
        )
        assert b"1\n" in end.log
        assert b"No space left" in end.log or b"File too large" in end.log

    async def test_the_number_of_processes_is_limited(self, sandbox):
        fork = (
            "import os, time\n"
            "for n in range(400):\n"
            "    try: pid = os.fork()\n"
            "    except OSError: print('stopped'); break\n"
            "    if pid == 0: time.sleep(20); os._exit(0)\n"
        )
        end = await self.looked(sandbox, *python(fork))
        assert end.log == b"stopped\n"

    async def test_resources_are_counted_over_all_processes_where_there_is_a_control_group(self, sandbox):
        many = (
            "import os, time\n"
            "for n in range(9):\n"
            "    if os.fork() == 0: hoard = b'x' * (10 << 20); time.sleep(1); os._exit(0)\n"
            "end = time.process_time() + 0.3\n"
            "while time.process_time() < end: pass\n"
            "for n in range(9): os.wait()\n"
        )
        end = await self.looked(sandbox, *python(many))
        assert end.exit.exit_code == 0, end.log
        assert end.exit.cpu_s >= 0.3
        if self.counts:
            assert 11 <= end.exit.pids_peak <= 16
            assert end.exit.peak_memory_bytes > 90 << 20

    async def test_every_guarantee_holds_and_those_of_control_groups_where_there_are_any(self, sandbox):
        broken = {each.promise for each in await guarantees(sandbox) if not each.holds}
        assert broken == (set() if self.counts else {"a control group counts its memory, processes and CPU time"})

    async def test_two_sandboxes_share_nothing(self, sandbox):
        write = "echo secret > /tmp/x; echo secret > /dev/shm/x; echo secret > /home/agent/x; sleep 1"
        writer = asyncio.ensure_future(self.looked(sandbox, "bash", "-c", write))
        await asyncio.sleep(0.5)
        end = await self.looked(
            sandbox, "bash", "-c", "cat /tmp/x /dev/shm/x /home/agent/x; ls /proc | grep -c '^[0-9]'"
        )
        await writer
        assert b"secret" not in end.log
        assert int(end.log.split()[-1]) < 8

    async def test_the_supervisor_is_out_of_reach(self, sandbox):
        reach = (
            "import os\n"
            "for name in ('fd/1', 'fd', 'mem', 'environ', 'root', 'cwd', 'maps'):\n"
            "    try:\n"
            "        path = '/proc/1/' + name\n"
            "        os.listdir(path) if name in ('fd', 'root', 'cwd') else open(path, 'rb').read(1)\n"
            "        print('reached', name)\n"
            "    except OSError: pass\n"
            "for sig in range(1, 65):\n"
            "    if sig not in (32, 33): os.kill(1, sig)\n"
            "print('still here')\n"
        )
        end = await self.looked(sandbox, *python(reach), files=(tar_of({"x": "x"}),))
        assert end.log == b"still here\n"
        assert end.exit.exit_code == 0
