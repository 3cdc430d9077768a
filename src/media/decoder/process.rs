//! One worker process, seen from the pool's side.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv,
    sendmsg, socketpair,
};

use super::DecoderConfig;
use super::protocol::{MAX_MESSAGE, Reply, Request};

/// Work after which a process is replaced. It bounds what a leaking codec can gather and stays well below the
/// lifetime's CPU limit that a worker sets itself (one hour, `sandbox.rs`).
const RETIRE_AFTER: Duration = Duration::from_secs(30 * 60);

/// Why a process gave no answer.
pub(super) enum Silence {
    /// The deadline passed.
    Deadline,
    /// The process died or said what it may not; it must be replaced.
    Broken(String),
}

/// A child process, killed when dropped.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    socket: OwnedFd,
    ready: bool,
    busy: Duration,
}

impl Process {
    /// Starts the program, in a process group of its own: a signal from the terminal reaches the server alone, which
    /// drains before its workers go. The kernel kills a worker when the *thread* that started it ends, so this is for
    /// the pool's spawner thread only.
    pub(super) fn spawn(config: &DecoderConfig) -> io::Result<Self> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let child = Command::new(&config.program)
            .arg("--max-memory")
            .arg(config.max_memory.to_string())
            .env_clear()
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { child, socket: ours, ready: false, busy: Duration::ZERO })
    }

    /// Whether it can take a request.
    pub(super) fn is_fit(&mut self) -> bool {
        self.busy < RETIRE_AFTER && matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until the worker has closed its sandbox.
    pub(super) fn wait_ready(&mut self, deadline: Instant) -> Result<(), Silence> {
        if self.ready {
            return Ok(());
        }
        match self.receive(deadline)? {
            Reply::Ready => {
                self.ready = true;
                Ok(())
            }
            Reply::Unusable { reason } => Err(Silence::Broken(reason)),
            _ => Err(Silence::Broken("the worker spoke out of turn".into())),
        }
    }

    /// Hands over one video and waits for the answer.
    pub(super) fn ask(
        &mut self,
        request: &Request,
        video: BorrowedFd<'_>,
        frames: BorrowedFd<'_>,
        deadline: Instant,
    ) -> Result<Reply, Silence> {
        let begun = Instant::now();
        let message = serde_json::to_vec(request).map_err(|error| Silence::Broken(error.to_string()))?;
        let fds = [video, frames];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(&self.socket, &[IoSlice::new(&message)], &mut control, SendFlags::NOSIGNAL)
            .map_err(|_| Silence::Broken(self.last_words()))?;
        let reply = self.receive(deadline);
        self.busy += begun.elapsed();
        reply
    }

    fn receive(&mut self, deadline: Instant) -> Result<Reply, Silence> {
        wait_readable(self.socket.as_fd(), deadline)?;
        let mut message = vec![0; MAX_MESSAGE];
        // TRUNC makes the kernel tell the true length of a message that is longer than the buffer.
        let length = match recv(&self.socket, &mut message[..], RecvFlags::TRUNC | RecvFlags::DONTWAIT) {
            Ok((_, 0)) | Err(_) => return Err(Silence::Broken(self.last_words())),
            Ok((_, length)) => length,
        };
        message
            .get(..length)
            .and_then(|message| serde_json::from_slice(message).ok())
            .ok_or_else(|| Silence::Broken("the worker's answer makes no sense".into()))
    }

    /// How the process ended, after its end of the socket was closed.
    fn last_words(&mut self) -> String {
        let _ = self.child.kill();
        match self.child.wait() {
            Ok(status) => format!("the worker ended ({status})"),
            Err(error) => format!("the worker is lost ({error})"),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until there is something to read or the other end is closed.
fn wait_readable(socket: BorrowedFd<'_>, deadline: Instant) -> Result<(), Silence> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Silence::Deadline);
        }
        let timeout = Timespec::try_from(left).ok();
        let mut fds = [PollFd::from_borrowed_fd(socket, PollFlags::IN)];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(Silence::Broken(error.to_string())),
        }
    }
}
