//! The sockets that this process holds, by inode. The user does not say it: a program of another
//! container may run as the same one, and the kernel lets that user go where links go.
#![allow(unsafe_code, reason = "calls the C library")]

use std::collections::HashSet;
use std::mem::MaybeUninit;

use rustix::process::{Resource, getrlimit};

/// The inodes of the sockets that this process holds now.
///
/// It asks about each descriptor that there can be, since a process that leaves no core behind may not
/// read its own `/proc/self/fd`: some milliseconds for thousands.
pub fn own_sockets() -> HashSet<u32> {
    (0..descriptors()).filter_map(inode_of_socket).collect()
}

/// More than the highest descriptor: as many as the kernel's table of this process has room for
/// (`FDSize` of `proc_pid_status(5)`), or else as many as there may be.
fn descriptors() -> i32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let size = status.lines().find_map(|line| line.strip_prefix("FDSize:"));
    let size = size.and_then(|size| size.trim().parse().ok());
    size.unwrap_or_else(|| {
        let most = getrlimit(Resource::Nofile).current;
        most.and_then(|most| i32::try_from(most).ok())
            .unwrap_or(i32::MAX)
    })
}

fn inode_of_socket(descriptor: i32) -> Option<u32> {
    let mut told = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: fstat takes any number, and fails for one that is not open; it writes to `told` alone.
    if unsafe { libc::fstat(descriptor, told.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: the call has succeeded, and so filled it.
    let told = unsafe { told.assume_init() };
    let is_socket = told.st_mode & libc::S_IFMT == libc::S_IFSOCK;
    // The kernel gives sockets numbers of 32 bits.
    is_socket.then(|| u32::try_from(told.st_ino).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_socket_is_among_them_while_it_is_held_and_a_file_never() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = inode_of_socket(socket.as_raw_fd()).unwrap();
        assert!(own_sockets().contains(&inode));
        drop(socket);
        assert!(!own_sockets().contains(&inode));
        let file = std::fs::File::open("/proc/self/status").unwrap();
        assert_eq!(inode_of_socket(file.as_raw_fd()), None);
    }

    #[test]
    fn those_with_high_numbers_are_among_them() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = inode_of_socket(socket.as_raw_fd()).unwrap();
        let high = rustix::io::fcntl_dupfd_cloexec(&socket, 700).unwrap();
        drop(socket);
        assert!(high.as_raw_fd() >= 700);
        assert!(own_sockets().contains(&inode));
    }
}
