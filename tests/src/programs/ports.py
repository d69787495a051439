"""Holds connections to as many servers as it takes until they come from every port that there is.
Usage: ports.py ADDRESS

Serves, in the pod that is dialled, with ADDRESS `serve`. Prints a line once it listens, or holds all.
"""
import selectors, socket, sys, time

SERVERS, FIRST, LAST = range(8000, 8040), 40000, 40011


def serve():
    selector = selectors.DefaultSelector()
    for port in SERVERS:
        selector.register(socket.create_server(("0.0.0.0", port)), selectors.EVENT_READ)
    print("listening", flush=True)
    held = []
    while True:
        for key, _ in selector.select():
            connection, _ = key.fileobj.accept()
            connection.sendall(b"x")
            held.append(connection)


def hold(address):
    held, missing = [], set(range(FIRST, LAST + 1))
    for port in SERVERS:
        for _ in range(4):
            connection = socket.create_connection((address, port), 10)
            assert connection.recv(1) == b"x"
            held.append(connection)
            missing.discard(connection.getsockname()[1])
    print("missing", sorted(missing), flush=True)
    time.sleep(600)


serve() if sys.argv[1] == "serve" else hold(sys.argv[1])
