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

use super::protocol::{Decoded, MAX_MESSAGE, Refusal, Reply, Request};
use super::{Cancel, DecoderConfig, MediaError};

/// Work after which a process is replaced. It bounds what a leaking codec can gather and stays well below the
/// lifetime's CPU limit that a worker sets itself (one hour, `sandbox.rs`).
const RETIRE_AFTER: Duration = Duration::from_secs(30 * 60);

/// How long a worker may take to load FFmpeg and close its sandbox.
pub(super) const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a wait looks whether it is cancelled.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// Why there is no place, or no answer from a process.
#[derive(Debug)]
pub(super) enum Silence {
    /// The deadline passed.
    Deadline,
    /// Nobody waits for it any more.
    Cancelled,
    /// The process died or said what it may not; it must be replaced.
    Broken(String),
}

impl Silence {
    /// As an error of a call that began at `begun`; `blame` says what a broken process means to it.
    pub(super) fn error(self, begun: Instant, blame: impl FnOnce(String) -> MediaError) -> MediaError {
        match self {
            Self::Deadline => MediaError::Deadline { waited: begun.elapsed() },
            Self::Cancelled => MediaError::Cancelled,
            Self::Broken(reason) => blame(reason),
        }
    }
}

/// A child process, killed when dropped.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    socket: OwnedFd,
    started: Instant,
    ready: bool,
    /// Requests handed over.
    asked: u64,
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
        Ok(Self { child, socket: ours, started: Instant::now(), ready: false, asked: 0, busy: Duration::ZERO })
    }

    /// Whether it can take a request. Not when it has said something that nobody asked for, which would be taken for
    /// the next answer, nor when it has not become ready in time.
    pub(super) fn is_fit(&mut self) -> bool {
        let has_spoken = wait_readable(self.socket.as_fd(), Instant::now(), &Cancel::new()).is_ok();
        let keeps_its_turn = match self.ready {
            true => !has_spoken,
            false => has_spoken || self.started.elapsed() < START_TIMEOUT,
        };
        keeps_its_turn && !self.is_worn() && matches!(self.child.try_wait(), Ok(None))
    }

    /// Whether it has worked for as long as it may.
    pub(super) fn is_worn(&self) -> bool {
        self.busy >= RETIRE_AFTER
    }

    /// Waits until the worker has closed its sandbox.
    pub(super) fn wait_ready(&mut self, deadline: Instant, cancel: &Cancel) -> Result<(), Silence> {
        if self.ready {
            return Ok(());
        }
        let latest = self.started + START_TIMEOUT;
        let reply = self.receive(deadline.min(latest), cancel).map_err(|silence| match silence {
            Silence::Deadline if latest <= deadline => {
                Silence::Broken(format!("the worker was not ready after {} s", START_TIMEOUT.as_secs()))
            }
            silence => silence,
        })?;
        match reply {
            Reply::Ready => {
                self.ready = true;
                Ok(())
            }
            Reply::Unusable { reason } => Err(Silence::Broken(reason)),
            Reply::Answer { .. } => Err(out_of_turn()),
        }
    }

    /// Hands over one video and waits for the answer to it, not to another.
    pub(super) fn ask(
        &mut self,
        request: Request,
        video: BorrowedFd<'_>,
        frames: BorrowedFd<'_>,
        deadline: Instant,
        cancel: &Cancel,
    ) -> Result<Result<Decoded, Refusal>, Silence> {
        let begun = Instant::now();
        self.asked += 1;
        let request = Request { number: self.asked, ..request };
        let message = serde_json::to_vec(&request).map_err(|error| Silence::Broken(error.to_string()))?;
        let fds = [video, frames];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(&self.socket, &[IoSlice::new(&message)], &mut control, SendFlags::NOSIGNAL)
            .map_err(|_| Silence::Broken(self.last_words()))?;
        let reply = self.receive(deadline, cancel);
        self.busy += begun.elapsed();
        match reply? {
            Reply::Answer { number, outcome } if number == self.asked => Ok(outcome),
            _ => Err(out_of_turn()),
        }
    }

    fn receive(&mut self, deadline: Instant, cancel: &Cancel) -> Result<Reply, Silence> {
        wait_readable(self.socket.as_fd(), deadline, cancel)?;
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

fn out_of_turn() -> Silence {
    Silence::Broken("the worker spoke out of turn".into())
}

/// Waits until there is something to read or the other end is closed; looks once when the deadline has passed.
fn wait_readable(socket: BorrowedFd<'_>, deadline: Instant, cancel: &Cancel) -> Result<(), Silence> {
    loop {
        if cancel.is_cancelled() {
            return Err(Silence::Cancelled);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left.min(TICK)).ok();
        let mut fds = [PollFd::from_borrowed_fd(socket, PollFlags::IN)];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) if left.is_zero() => return Err(Silence::Deadline),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(Silence::Broken(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that lives and says nothing, started `age` ago.
    fn silent(age: Duration) -> (Process, OwnedFd) {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a socket pair");
        let child = Command::new("sleep").arg("60").spawn().expect("sleep is installed");
        let started = Instant::now() - age;
        (Process { child, socket: ours, started, ready: false, asked: 0, busy: Duration::ZERO }, theirs)
    }

    #[test]
    fn a_worker_that_never_becomes_ready_is_given_up() {
        let (mut young, _its_end) = silent(Duration::ZERO);
        assert!(young.is_fit());
        let (mut old, its_end) = silent(START_TIMEOUT);
        assert!(!old.is_fit());
        let later = Instant::now() + Duration::from_secs(60);
        assert!(matches!(old.wait_ready(later, &Cancel::new()), Err(Silence::Broken(_))));

        // Ready in time, but nobody has asked since.
        rustix::net::send(&its_end, br#""Ready""#, SendFlags::NOSIGNAL).expect("an open socket");
        assert!(old.is_fit());
        assert!(old.wait_ready(Instant::now(), &Cancel::new()).is_ok());
        assert!(old.is_fit());
    }
}
