//! Work on a CUDA device that goes on beside other work, and the moments at which the one waits for the other.

use std::ffi::{c_char, c_void};
use std::fmt;
use std::marker::PhantomData;
use std::ptr::null_mut;
use std::time::{Duration, Instant};

use tch::{Device, TchError};

use super::torch::{checked, cuda_index};

unsafe extern "C" {
    fn pcqa_stream_new(index: i32, stream: *mut i64) -> *mut c_char;
    fn pcqa_stream_enter(index: i32, stream: i64, before: *mut i64) -> *mut c_char;
    fn pcqa_event_new(index: i32, event: *mut *mut c_void) -> *mut c_char;
    fn pcqa_event_hold(index: i32, event: *mut c_void) -> *mut c_char;
    fn pcqa_event_wait(event: *mut c_void) -> *mut c_char;
    fn pcqa_event_has_passed(event: *mut c_void, passed: *mut bool) -> *mut c_char;
    fn pcqa_event_elapsed(first: *mut c_void, second: *mut c_void, milliseconds: *mut f64) -> *mut c_char;
    fn pcqa_event_delete(event: *mut c_void);
}

/// A stream of a CUDA device beside the one that a thread asks on. What is asked on different streams is done in any
/// order, or at once; [`Moment::hold`] says what must come first.
#[derive(Debug)]
pub struct Stream {
    index: i32,
    stream: i64,
}

/// While it lives, its thread asks on a [`Stream`].
#[derive(Debug)]
#[must_use]
pub struct OnStream {
    index: i32,
    before: i64,
    /// It is the thread's.
    _not_send: PhantomData<*const ()>,
}

impl Stream {
    /// One of `device`; none where that is no CUDA device.
    ///
    /// # Errors
    /// Those of libtorch; CUDA is not there.
    pub fn beside(device: Device) -> Result<Option<Self>, TchError> {
        let Some(index) = cuda_index(device)? else { return Ok(None) };
        let mut stream = 0;
        // SAFETY: writes one number. The stream is one of libtorch's own, which it never frees.
        checked(unsafe { pcqa_stream_new(index, &mut stream) })?;
        Ok(Some(Self { index, stream }))
    }

    /// Until what it gives is dropped, this thread asks on it.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn enter(&self) -> Result<OnStream, TchError> {
        let mut before = 0;
        // SAFETY: `stream` is the number of one of libtorch's streams of this device; writes one number.
        checked(unsafe { pcqa_stream_enter(self.index, self.stream, &mut before) })?;
        Ok(OnStream { index: self.index, before, _not_send: PhantomData })
    }
}

impl Drop for OnStream {
    fn drop(&mut self) {
        let mut left = 0;
        // SAFETY: as in `enter`, of the stream that libtorch gave there.
        let error = checked(unsafe { pcqa_stream_enter(self.index, self.before, &mut left) });
        if let Err(error) = error {
            tracing::error!(%error, "a thread stays on a stream that is not its own");
        }
    }
}

/// When a device has done all that this thread had asked of it: of a CUDA device on the thread's stream, of others at once.
pub struct Moment(Mark);

enum Mark {
    Passed(Instant),
    Event { index: i32, event: *mut c_void },
}

impl Moment {
    /// After what this thread has asked of `device` until now.
    ///
    /// # Errors
    /// Those of libtorch; CUDA is not there.
    pub fn mark(device: Device) -> Result<Self, TchError> {
        let Some(index) = cuda_index(device)? else { return Ok(Self(Mark::Passed(Instant::now()))) };
        let mut event = null_mut();
        // SAFETY: writes one pointer, which stays ours.
        checked(unsafe { pcqa_event_new(index, &mut event) })?;
        Ok(Self(Mark::Event { index, event }))
    }

    /// What this thread asks of the device from now on is done after it. The thread itself does not wait.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn hold(&self) -> Result<(), TchError> {
        match self.0 {
            Mark::Passed(_) => Ok(()),
            // SAFETY: made by `mark` and not deleted before `self` is dropped.
            Mark::Event { index, event } => checked(unsafe { pcqa_event_hold(index, event) }),
        }
    }

    /// Returns when it has come.
    ///
    /// # Errors
    /// What went wrong on the device since it was asked last.
    pub fn wait(&self) -> Result<(), TchError> {
        match self.0 {
            Mark::Passed(_) => Ok(()),
            // SAFETY: as above.
            Mark::Event { event, .. } => checked(unsafe { pcqa_event_wait(event) }),
        }
    }

    /// Whether it has come.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn has_passed(&self) -> Result<bool, TchError> {
        match self.0 {
            Mark::Passed(_) => Ok(true),
            Mark::Event { event, .. } => {
                let mut passed = false;
                // SAFETY: as above; writes one boolean.
                checked(unsafe { pcqa_event_has_passed(event, &mut passed) })?;
                Ok(passed)
            }
        }
    }

    /// Time between `earlier`, a moment of the same device, and this one, both of which have passed.
    ///
    /// # Errors
    /// They have not; those of libtorch.
    pub fn since(&self, earlier: &Self) -> Result<Duration, TchError> {
        match (&self.0, &earlier.0) {
            (Mark::Passed(later), Mark::Passed(earlier)) => Ok(later.saturating_duration_since(*earlier)),
            (Mark::Event { event: later, .. }, Mark::Event { event: earlier, .. }) => {
                let mut milliseconds = 0.0;
                // SAFETY: as above; writes one number.
                checked(unsafe { pcqa_event_elapsed(*earlier, *later, &mut milliseconds) })?;
                Ok(Duration::try_from_secs_f64(milliseconds / 1e3).unwrap_or_default())
            }
            _ => Err(TchError::Torch("moments of different devices".to_owned())),
        }
    }
}

impl Drop for Moment {
    fn drop(&mut self) {
        if let Mark::Event { event, .. } = self.0 {
            // SAFETY: made by `mark` and nobody's but ours; it is not used after this.
            unsafe { pcqa_event_delete(event) };
        }
    }
}

impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Moment").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_the_processor_every_moment_has_passed() {
        assert!(Stream::beside(Device::Cpu).unwrap().is_none());
        let first = Moment::mark(Device::Cpu).unwrap();
        std::thread::sleep(Duration::from_millis(2));
        let second = Moment::mark(Device::Cpu).unwrap();
        first.hold().unwrap();
        second.wait().unwrap();
        assert!(second.has_passed().unwrap());
        assert!(second.since(&first).unwrap() >= Duration::from_millis(2));
        assert_eq!(first.since(&second).unwrap(), Duration::ZERO);
    }

    #[test]
    fn without_cuda_there_is_neither_and_it_is_said_why() {
        if super::super::load_cuda().is_ok() {
            return;
        }
        let why = super::super::cuda().unwrap_err();
        let refused = [Stream::beside(Device::Cuda(0)).map(drop), Moment::mark(Device::Cuda(0)).map(drop)];
        for refused in refused {
            assert!(refused.unwrap_err().to_string().contains(why));
        }
    }
}
