//! What the tests across processes share: the privileges to run under, and applications.

use std::path::Path;
use std::time::Duration;

use sealwire_pods::{Mesh, Pod, Privilege, Process, Programs, assert_eventually};

/// How long something may take that happens at once.
pub const SOON: Duration = Duration::from_secs(15);

/// Runs a test in a new mesh, with every privilege that this process has: as root and without.
///
/// # Panics
/// When the test does, or no mesh can be made.
#[allow(clippy::expect_used, reason = "an assertion, for tests")]
pub fn with_each_privilege(test: impl Fn(&Mesh)) {
    for privilege in Privilege::available() {
        test(&mesh(privilege));
    }
}

/// Runs a test in a new mesh, with the best privilege that this process has.
///
/// # Panics
/// When the test does, or no mesh can be made.
pub fn in_a_mesh(test: impl Fn(&Mesh)) {
    test(&mesh(Privilege::available()[0]));
}

/// An application that answers each HTTP request with `text`, on all addresses.
///
/// # Panics
/// When it does not come up.
#[allow(clippy::expect_used, reason = "an assertion, for tests")]
pub fn http_server(pod: &Pod, port: u16, text: &str) -> Process {
    let script = "
import http.server, socket, sys
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        body = sys.argv[2].encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 2048
Server(('::', int(sys.argv[1])), Answer).serve_forever()
";
    let server = pod
        .app("/usr/bin/python3")
        .args(["-c", script, &port.to_string(), text])
        .spawn()
        .expect("python3 starts");
    assert_eventually("the server listens", SOON, || {
        pod.listens(port).then_some(())
    });
    server
}

#[allow(clippy::expect_used, reason = "an assertion, for tests")]
fn mesh(privilege: Privilege) -> Mesh {
    let own = std::env::current_exe().expect("this program has a path");
    let programs = Programs::beside(&own)
        .or_else(|_| Programs::beside(own.parent().unwrap_or(Path::new("/"))))
        .expect("the programs are built");
    Mesh::new(privilege, &programs).expect("a mesh can be made")
}
