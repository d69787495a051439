//! System calls. A list of what is refused, not of what is allowed: a vendor's module may need
//! anything ordinary, and nothing here needs to start programs, look into other processes or
//! open other sockets than those for IP, netlink and the local machine.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter_all_threads,
};

/// Calls that are refused whatever their arguments.
const REFUSED: &[c_long] = &[
    // Other programs and other processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // A second way to the kernel, past the filter.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // The kernel itself.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    // Mounts, namespaces, keyrings, identities.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_fsconfig,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
];

/// Families that a socket may be of.
const FAMILIES: [i32; 4] = [
    libc::AF_UNIX,
    libc::AF_INET,
    libc::AF_INET6,
    libc::AF_NETLINK,
];

/// What netlink may be asked for: addresses and routes, which the C library's resolver does, and
/// sockets, which the census does.
const NETLINKS: [i32; 2] = [libc::NETLINK_ROUTE, libc::NETLINK_SOCK_DIAG];

/// Flags of `clone` that would make a namespace.
const NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// Why the filter could not be installed.
#[derive(Debug, thiserror::Error)]
pub(super) enum SeccompError {
    #[error("no filter for this architecture: {0}")]
    Build(#[from] BackendError),
    #[error("the kernel refused the filter: {0}")]
    Install(#[from] seccompiler::Error),
}

pub(super) fn restrict() -> Result<(), SeccompError> {
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> =
        REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    rules.insert(libc::SYS_socket, vec![other_families()?, other_netlinks()?]);
    rules.insert(
        libc::SYS_clone,
        NAMESPACES
            .into_iter()
            .map(makes)
            .collect::<Result<_, _>>()?,
    );
    install(rules, libc::EPERM)?;
    // Its flags are in memory that a filter cannot read. The C library takes "no such call" as a
    // hint to use clone instead.
    install(
        BTreeMap::from([(libc::SYS_clone3, Vec::new())]),
        libc::ENOSYS,
    )
}

fn install(rules: BTreeMap<c_long, Vec<SeccompRule>>, errno: i32) -> Result<(), SeccompError> {
    let refuse = SeccompAction::Errno(errno.unsigned_abs());
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?;
    let program: BpfProgram = filter.try_into()?;
    Ok(apply_filter_all_threads(&program)?)
}

/// Matches a family that is none of the allowed.
fn other_families() -> Result<SeccompRule, BackendError> {
    let none = FAMILIES
        .into_iter()
        .map(|family| argument(0, SeccompCmpOp::Ne, family));
    SeccompRule::new(none.collect::<Result<_, _>>()?)
}

/// Matches netlink for something that is none of the allowed.
fn other_netlinks() -> Result<SeccompRule, BackendError> {
    let netlink = argument(0, SeccompCmpOp::Eq, libc::AF_NETLINK);
    let none = NETLINKS
        .into_iter()
        .map(|kind| argument(2, SeccompCmpOp::Ne, kind));
    SeccompRule::new(
        std::iter::once(netlink)
            .chain(none)
            .collect::<Result<_, _>>()?,
    )
}

fn argument(at: u8, compare: SeccompCmpOp, value: i32) -> Result<SeccompCondition, BackendError> {
    let value = u64::from(value.unsigned_abs());
    SeccompCondition::new(at, SeccompCmpArgLen::Dword, compare, value)
}

/// Matches a `clone` with this flag.
fn makes(flag: i32) -> Result<SeccompRule, BackendError> {
    let bit = u64::from(flag.unsigned_abs());
    let set = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(bit), bit)?;
    SeccompRule::new(vec![set])
}
