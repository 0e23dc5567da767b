# A writer that does exactly the system calls it is told, from the bytes of SOURCE to TARGET:
#   write:OFFSET:BYTES  zeros:BYTES (from the start)  truncate:BYTES  fsync  fsync-refused (it must fail)  dup (closes a copy of the descriptor: a flush)
#   fork (a child closes its copy)  spawn (a program is run, which does not inherit it)  wait  close
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
        elif name == "zeros":
            os.pwrite(target, bytes(numbers[0]), 0)
        elif name == "fork":
            child = os.fork()
            if child == 0:
                try:
                    os.close(target)
                finally:
                    os._exit(0)
            os.waitpid(child, 0)
        elif name == "spawn":
            os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
        elif name == "truncate":
            os.ftruncate(target, numbers[0])
        elif name == "fsync":
            os.fsync(target)
        elif name == "fsync-refused":
            try:
                os.fsync(target)
                sys.exit("fsync: what is not there is durable")
            except OSError:
                pass
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
