"""Sets the clock, its time zone, its own start: what the time says must stay true."""

import ctypes
import os
import time

libc = ctypes.CDLL(None, use_errno=True)
before = time.time()
value = (ctypes.c_long * 2)(0, 0)
for name, arguments in (("settimeofday", (value, None)), ("clock_settime", (0, value)), ("stime", (value,))):
    call = getattr(libc, name, None)
    if call and call(*arguments) == 0:
        print("BROKE OUT:", name)
if libc.unshare(0x80) == 0:
    print("BROKE OUT: a time namespace")
for path in ("/dev/rtc", "/dev/rtc0", "/proc/driver/rtc"):
    try:
        os.close(os.open(path, os.O_WRONLY))
        print("BROKE OUT:", path)
    except OSError:
        pass
if abs(time.time() - before) > 60:
    print("BROKE OUT: the clock was set")
