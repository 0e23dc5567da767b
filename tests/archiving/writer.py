# A writer that does exactly the system calls it is told, from the bytes of SOURCE to TARGET:
#   write:OFFSET:BYTES  truncate:BYTES  fsync  dup (closes a copy of the descriptor: a flush)  wait  close
# `wait` says "waiting" and goes on when a line comes. An error ends it with status 1 and says which call it was.
import os, sys

source = open(sys.argv[1], "rb").read()
target = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
for call in sys.argv[3:]:
    name, *numbers = call.split(":")
    numbers = [int(number) for number in numbers]
    try:
        if name == "write":
            at, end = numbers[0], numbers[0] + numbers[1]
            while at < end:
                at += os.pwrite(target, source[at:end], at)
        elif name == "truncate":
            os.ftruncate(target, numbers[0])
        elif name == "fsync":
            os.fsync(target)
        elif name == "dup":
            os.close(os.dup(target))
        elif name == "close":
            os.close(target)
        elif name == "wait":
            print("waiting", flush=True)
            sys.stdin.readline()
        else:
            sys.exit("unknown call " + call)
    except OSError as error:
        sys.exit(f"{call}: {error.strerror}")
