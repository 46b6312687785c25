"""Makes empty files, directories and links until nothing takes any more."""

import os

made = 0
for directory in ("/tmp", "/sandbox", os.path.expanduser("~"), "/dev/shm"):
    try:
        os.chdir(directory)
        for number in range(60_000):
            os.close(os.open(f"i{number}", os.O_CREAT | os.O_WRONLY))
            os.symlink("x" * 200, f"l{number}")
            made += 2
    except OSError as error:
        print(directory, error.strerror, flush=True)
print("made", made, flush=True)
