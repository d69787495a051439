"""Stands before a server and answers as the file says. Usage: faulty.py ADDRESS CERT KEY FILE [HOST]

The file holds `ok`, `slow` (2 s before each answer), or a status such as `500`; with a number behind it, such as
`500 3`, for so many signatures, then `ok`. Only signatures, of keys and of certificates, are answered so.
Or it holds `hold before PART N ID`: the N-th request from then on with PART in its path is held up as long as the file
stays so, and then never answered; `before` the server has it, or `after` the server has done it, so that the answer
alone is lost. Prints its port, on HOST (127.0.0.1), and `held ID` when it holds one.
"""
import collections, http.client, http.server, ssl, sys, time

address, certificate, key, file, host = (sys.argv[1:] + ["127.0.0.1"])[:5]
upstream = ssl._create_unverified_context()
seen = collections.Counter()


class Faulty(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        order = open(file).read()
        mode, *left = order.split()
        if mode == "hold" and self.is_to_be_held(order, *left):
            if left[0] == "after":
                self.forward(body)
            print("held", left[3], flush=True)
            while open(file).read() == order:
                time.sleep(0.02)
            self.close_connection = True
            return
        if "/sign/" in self.path:
            if left and mode.isdigit():
                more = int(left[0]) - 1
                open(file, "w").write(f"{mode} {more}" if more else "ok")
            if mode == "slow":
                time.sleep(2)
            elif mode.isdigit():
                return self.reply(int(mode), b'{"errors":["made up"]}')
        self.reply(*self.forward(body))

    def is_to_be_held(self, order, _when, part, number, _id):
        if part not in self.path:
            return False
        seen[order] += 1
        return seen[order] == int(number)

    def forward(self, body):
        server = http.client.HTTPSConnection(address, context=upstream)
        headers = {k: v for k, v in self.headers.items() if k.lower().startswith("x-vault")}
        server.request(self.command, self.path, body or None, headers)
        response = server.getresponse()
        return response.status, response.read()

    def reply(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_LIST = answer

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer((host, 0), Faulty)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
