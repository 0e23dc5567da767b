# Tries operations in the directory DIRECTORY one after the other, and says of each what became of it:
#   create:F  write:F:MIB (zeros, at the end)  fsync:F  close:F  rename:A:B  chmod:F  sync (of the directory)
#   wait (says "waiting" and goes on when a line comes)
import errno, os, sys

os.chdir(sys.argv[1])
held = {}


def do(name, *words):
    if name == "create":
        held[words[0]] = os.open(words[0], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    elif name == "write":
        for _ in range(int(words[1])):
            os.write(held[words[0]], bytes(1 << 20))
    elif name == "fsync":
        os.fsync(held[words[0]])
    elif name == "close":
        os.close(held.pop(words[0]))
    elif name == "rename":
        os.rename(*words)
    elif name == "chmod":
        os.chmod(words[0], 0o640)
    elif name == "sync":
        directory = os.open(".", os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    elif name == "wait":
        print("waiting", flush=True)
        sys.stdin.readline()
    else:
        sys.exit("unknown operation " + name)


for operation in sys.argv[2:]:
    try:
        do(*operation.split(":"))
        outcome = "done"
    except OSError as error:
        outcome = errno.errorcode[error.errno]
    if operation != "wait":
        print(operation, outcome, flush=True)
