"""Stands before a server and answers as the file says. Usage: faulty.py ADDRESS CERT KEY FILE [HOST]

The file holds `ok`, `slow` (2 s before each answer), or a status such as `500`; with a number behind it, such as
`500 3`, for so many signatures, then `ok`. Prints its port, on HOST (127.0.0.1). Only signatures, of keys and of certificates, are answered so.
"""
import http.client, http.server, ssl, sys, time

address, certificate, key, file, host = (sys.argv[1:] + ["127.0.0.1"])[:5]
upstream = ssl._create_unverified_context()


class Faulty(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        mode, *left = open(file).read().split()
        if "/sign/" in self.path:
            if left:
                more = int(left[0]) - 1
                open(file, "w").write(f"{mode} {more}" if more else "ok")
            if mode == "slow":
                time.sleep(2)
            elif mode != "ok":
                return self.reply(int(mode), b'{"errors":["made up"]}')
        server = http.client.HTTPSConnection(address, context=upstream)
        headers = {k: v for k, v in self.headers.items() if k.lower().startswith("x-vault")}
        server.request(self.command, self.path, body or None, headers)
        response = server.getresponse()
        self.reply(response.status, response.read())

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
