"""Applications for tests. Usage: server.py PORT MODE

echo          sends back what comes, and ends when the other side has
speaks-first  says "ready" at once, then echoes
digest        reads to the end, then sends the SHA-256 of it and closes
source        sends 100 MB made from a seed, then ends its side and waits for the other's end
log           writes what comes to standard output
ends-first    ends its side at once, then writes what comes to standard output
drip          sends a byte every 10 ms for ever
"""
import hashlib, random, socket, socketserver, sys, threading, time

port, mode = int(sys.argv[1]), sys.argv[2]
host = sys.argv[3] if len(sys.argv) > 3 else "::"
MEGABYTE = random.Random(7).randbytes(1 << 20)


def pieces(s):
    while piece := s.recv(65536):
        yield piece


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        s = self.request
        if mode == "speaks-first":
            s.sendall(b"ready\n")
        if mode in ("echo", "speaks-first"):
            for piece in pieces(s):
                s.sendall(piece)
        elif mode == "digest":
            sha = hashlib.sha256()
            for piece in pieces(s):
                sha.update(piece)
            s.sendall(sha.hexdigest().encode())
        elif mode == "source":
            for _ in range(100):
                s.sendall(MEGABYTE)
            s.shutdown(socket.SHUT_WR)
            list(pieces(s))
        elif mode == "drip":
            while True:
                s.sendall(b".")
                time.sleep(0.01)
        else:
            if mode == "ends-first":
                s.shutdown(socket.SHUT_WR)
            for piece in pieces(s):
                sys.stdout.write(piece.decode("latin-1"))
                sys.stdout.flush()
            print("<end>", flush=True)


class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 4096


threading.stack_size(256 * 1024)
Server((host, port), Handler).serve_forever()
