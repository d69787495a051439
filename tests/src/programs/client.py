"""What applications do to servers. Usage: client.py ADDRESS PORT MODE

Prints what came of it; exceptions by their name.
"""
import hashlib, os, random, socket, sys, threading, time

address, port, mode = sys.argv[1], int(sys.argv[2]), sys.argv[3]
MEGABYTE = random.Random(7).randbytes(1 << 20)


def connect(timeout=float(os.environ.get("TIMEOUT", 20))):
    return socket.create_connection((address, port), timeout)


def read_all(s):
    return b"".join(iter(lambda: s.recv(65536), b""))


def main():
    if mode == "listen":
        # Says nothing: waits for the server's first line.
        s = connect()
        print(s.makefile().readline().strip())
    elif mode == "echo":
        s = connect()
        s.sendall(b"there and back")
        s.shutdown(socket.SHUT_WR)
        print(read_all(s).decode())
    elif mode == "digest":
        s, sha = connect(), hashlib.sha256()
        for _ in range(100):
            sha.update(MEGABYTE)
            s.sendall(MEGABYTE)
        s.shutdown(socket.SHUT_WR)
        print("same" if read_all(s).decode() == sha.hexdigest() else "different")
    elif mode == "source":
        s, sha, expected = connect(), hashlib.sha256(), hashlib.sha256(MEGABYTE * 100)
        while piece := s.recv(65536):
            sha.update(piece)
        print("same" if sha.digest() == expected.digest() else "different")
    elif mode == "after-their-end":
        # The server ends its side first; what is sent after that still arrives.
        s = connect()
        assert read_all(s) == b""
        time.sleep(0.2)
        s.sendall(b"sent after their end")
        s.close()
        print("sent")
    elif mode == "many":
        sockets = [None] * 1000
        failures = []

        def one(number):
            try:
                s = sockets[number] = connect(60)
                s.sendall(b"%d\n" % number)
                line = s.makefile().readline()
                if line != "%d\n" % number:
                    failures.append(repr(line))
            except OSError as error:
                failures.append(repr(error))

        threads = [threading.Thread(target=one, args=(n,)) for n in range(1000)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        # All of them are open at once here.
        for s in filter(None, sockets):
            s.close()
        print(f"{1000 - len(failures)} of 1000", *failures[:3])
    elif mode == "until-it-ends":
        s = connect()
        got = len(s.recv(1))
        print("reading", flush=True)
        got += len(read_all(s))
        print(f"a clean end after {got} bytes")
    elif mode == "churn":
        # A connection for each exchange.
        end, done = time.time() + float(sys.argv[4]), 0
        while time.time() < end:
            s = connect()
            s.sendall(b"there and back")
            s.shutdown(socket.SHUT_WR)
            if read_all(s) != b"there and back":
                raise EOFError
            s.close()
            done += 1
        print(f"{done} exchanges, none broken")
    elif mode == "steady":
        # Exchanges on one connection until told to stop by the end of input.
        stop, done = [], 0
        threading.Thread(target=lambda: (sys.stdin.read(), stop.append(1)), daemon=True).start()
        end = time.time() + float(sys.argv[4])
        s = connect()
        while time.time() < end:
            s.sendall(b"x" * 100)
            got = 0
            while got < 100:
                piece = s.recv(100)
                if not piece:
                    raise EOFError
                got += len(piece)
            done += 1
        s.shutdown(socket.SHUT_WR)
        assert read_all(s) == b""
        print(f"{done} exchanges, none broken")


try:
    main()
except Exception as error:
    print(type(error).__name__)
    sys.exit(1)
