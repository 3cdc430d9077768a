//! What this process gives up before it sees a byte of media: memory and CPU time without end, other files, the
//! network, new programs and new privileges. It keeps the socket to the pool and what the pool sends over it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode};

use rlimit::Resource;
use rustix::process::{Signal, set_parent_process_death_signal};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use crate::ffi;

/// CPU seconds of the whole life of the process; the pool replaces it long before.
const MAX_CPU_SECONDS: u64 = 3600;

/// Standard streams, two memory files and their copies.
const MAX_FILES: u64 = 16;

/// What decoding takes: memory, its own files and the socket, time, and dying. Everything else fails with EPERM, `open`
/// and `socket` among it. Where a call takes a descriptor, only the socket and the memory files exist. No call here can
/// name another process; those that could are held to this one by `own_process_rules`.
const ALLOWED: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_close,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_sched_yield,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Closes the sandbox around this process; there is no way back.
pub fn close(max_memory: u64) -> Result<(), String> {
    let step = |what: &'static str| move |error: &dyn std::fmt::Display| format!("cannot {what}: {error}");
    ffi::close_inherited_files().map_err(|error| step("close inherited files")(&error))?;
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| step("tie its life to the server")(&error))?;
    set_limits(max_memory).map_err(|error| step("limit its resources")(&error))?;
    let filter = filter().map_err(|error| step("build the seccomp filter")(&error))?;
    // Sets no_new_privs as well.
    seccompiler::apply_filter(&filter).map_err(|error| step("apply the seccomp filter")(&error))
}

fn set_limits(max_memory: u64) -> io::Result<()> {
    let limits = [
        (Resource::AS, max_memory),
        (Resource::FSIZE, max_memory),
        (Resource::CPU, MAX_CPU_SECONDS),
        (Resource::NOFILE, MAX_FILES),
        (Resource::CORE, 0),
    ];
    limits.iter().try_for_each(|(resource, most)| resource.set(*most, *most))
}

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED.iter().map(|&call| (call, Vec::new())).collect();
    // Memory never becomes executable: no code of an attacker's own.
    let not_executable = || only_if(2, SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64), 0);
    rules.insert(libc::SYS_mmap, vec![not_executable()?]);
    rules.insert(libc::SYS_mprotect, vec![not_executable()?]);
    rules.extend(own_process_rules()?);
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    SeccompFilter::new(rules, refused, SeccompAction::Allow, std::env::consts::ARCH.try_into()?)?.try_into()
}

/// Calls that take the id of a process or a thread, with no id but this process's own.
fn own_process_rules() -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    let own = u64::from(std::process::id());
    // `abort` signals the calling thread.
    let signal_itself = vec![only_if(0, SeccompCmpOp::Eq, own)?];
    // Codecs count the processors that they may use.
    let own_affinity = vec![only_if(0, SeccompCmpOp::Eq, 0)?, only_if(0, SeccompCmpOp::Eq, own)?];
    // The operations that inherit priorities look up their owner by a thread id in memory.
    let flags = libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME;
    let operation = || SeccompCmpOp::MaskedEq(u64::from(!(flags as u32)));
    let wait_and_wake = [libc::FUTEX_WAIT, libc::FUTEX_WAKE, libc::FUTEX_WAIT_BITSET]
        .into_iter()
        .map(|allowed| only_if(1, operation(), allowed as u64))
        .collect::<Result<_, _>>()?;
    Ok(BTreeMap::from([
        (libc::SYS_tgkill, signal_itself),
        (libc::SYS_sched_getaffinity, own_affinity),
        (libc::SYS_futex, wait_and_wake),
    ]))
}

/// Allows a call when the low 32 bits of its argument compare so.
fn only_if(argument: u8, comparison: SeccompCmpOp, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, comparison, value)?])
}

/// Tries what the sandbox must refuse, prints one line each and fails if anything went through. `parent` is a process
/// that this one could signal before.
pub fn self_test(closed: Result<(), String>, parent: u32) -> ExitCode {
    if let Err(reason) = closed {
        println!("sandbox: {reason}");
        return ExitCode::FAILURE;
    }
    let attempts: [(&str, io::Result<()>); 9] = [
        ("open a file", File::open("/etc/passwd").map(drop)),
        ("create a file", File::create("/tmp/pcqa-decoder-self-test").map(drop)),
        ("open a network socket", UdpSocket::bind("127.0.0.1:0").map(drop)),
        ("open a unix socket", UnixStream::pair().map(drop)),
        ("start a program", Command::new("/bin/true").spawn().map(drop)),
        ("signal another process", ffi::probe_process(parent)),
        ("signal another process's thread", ffi::probe_thread(parent, parent)),
        ("read another process's affinity", ffi::probe_affinity(parent)),
        ("start a thread", std::thread::Builder::new().spawn(|| {}).map(drop)),
    ];
    let mut held = true;
    for (name, outcome) in attempts {
        let refused = matches!(&outcome, Err(error) if error.kind() == io::ErrorKind::PermissionDenied);
        println!("{name}: {}", if refused { "refused".into() } else { format!("not refused ({outcome:?})") });
        held &= refused;
    }
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
