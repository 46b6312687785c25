"""Makes devices, and opens every one there is but the harmless."""

import os
import stat

harmless = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "stdin", "stdout", "stderr", "fd", "shm", "pts"}
for top, directories, files in os.walk("/dev"):
    directories[:] = [name for name in directories if name not in ("shm", "fd")]
    for name in files:
        path = os.path.join(top, name)
        try:
            mode = os.stat(path).st_mode
            if name in harmless or not (stat.S_ISBLK(mode) or stat.S_ISCHR(mode)) or top == "/dev/pts":
                continue
            os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
            print("BROKE OUT:", path, flush=True)
        except OSError:
            pass
for directory in ("/tmp", "/sandbox", "/dev", "/dev/shm", os.path.expanduser("~")):
    for kind, major, minor in ((stat.S_IFBLK, 8, 0), (stat.S_IFBLK, 254, 0), (stat.S_IFCHR, 1, 1), (stat.S_IFCHR, 10, 229)):
        path = f"{directory}/device"
        try:
            os.mknod(path, kind | 0o666, os.makedev(major, minor))
            os.close(os.open(path, os.O_RDONLY))
            print("BROKE OUT: made and opened", path, major, minor, flush=True)
        except OSError:
            pass
