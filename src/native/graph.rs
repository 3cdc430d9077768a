//! CUDA graphs: work on the device that is recorded once and then asked for with a single call.

use std::ffi::c_void;
use std::fmt;
use std::marker::PhantomData;
use std::ptr::null_mut;

use tch::{Device, TchError};

use super::cuda::{Functions, functions};
use super::torch::{checked, index};
use super::transfer::is_alive;

/// Memory that several graphs have in common. They must never run at the same time, and what one has computed must be
/// used before another runs.
#[derive(Debug)]
pub struct GraphPool {
    functions: Functions,
    device: usize,
    id: [u64; 2],
}

/// A recorded piece of work. It reads and writes the same memory each time.
pub struct Graph {
    functions: Functions,
    device: usize,
    graph: *mut c_void,
    /// One thread's: it runs on that one's stream.
    _not_send: PhantomData<*const ()>,
}

impl GraphPool {
    /// For graphs on this CUDA device.
    ///
    /// # Errors
    /// Those of libtorch; what is missing.
    pub fn new(device: usize) -> Result<Self, TchError> {
        let functions = functions()?;
        let mut id = [0; 2];
        // SAFETY: writes two numbers.
        checked(unsafe { (functions.graph_pool)(id.as_mut_ptr()) })?;
        Ok(Self { functions, device, id })
    }

    /// Records what `run` asks of the device, without doing it; what it gives holds values once the graph has been
    /// [replayed](Graph::replay). `run` must have run before, so that nothing is done for the first time, must not wait
    /// for the device, and may read only memory that outlives the graph. The thread must be on
    /// [a stream of its own](super::own_stream).
    ///
    /// # Errors
    /// Those of `run` and of libtorch. The device can be used as before then.
    pub fn capture<T, E: From<TchError>>(&self, run: impl FnOnce() -> Result<T, E>) -> Result<(Graph, T), E> {
        let mut recording = Recording { functions: self.functions, device: self.device, graph: null_mut() };
        let index = index(self.device)?;
        // SAFETY: reads two numbers, writes one pointer, which `recording` answers for from now on.
        let begun = unsafe { (self.functions.graph_begin)(index, self.id.as_ptr(), &mut recording.graph) };
        checked(begun)?;
        let made = run()?;
        Ok((recording.finish()?, made))
    }
}

/// A capture that is under way. Dropped, by an error or a panic, it is given up.
struct Recording {
    functions: Functions,
    device: usize,
    graph: *mut c_void,
}

impl Recording {
    fn finish(mut self) -> Result<Graph, TchError> {
        // SAFETY: the capture was begun on this thread and has not ended.
        checked(unsafe { (self.functions.graph_end)(self.graph) })?;
        let graph = std::mem::replace(&mut self.graph, null_mut());
        Ok(Graph { functions: self.functions, device: self.device, graph, _not_send: PhantomData })
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if !self.graph.is_null() {
            // SAFETY: made by `graph_begin` and nobody's but ours; it is not used after this.
            unsafe { (self.functions.graph_abandon)(self.graph) };
        }
    }
}

impl Graph {
    /// Asks the device for all of it.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn replay(&self) -> Result<(), TchError> {
        // SAFETY: the capture has ended well. That the memory which it reads is still there is `capture`'s condition.
        checked(unsafe { (self.functions.graph_replay)(self.graph) })
    }
}

impl Drop for Graph {
    /// As of [`Pinned`](super::Pinned) memory, libtorch's destructor may end the process where the device has failed for
    /// good: better to lose the graph.
    fn drop(&mut self) {
        if is_alive(Device::Cuda(self.device)).is_err() {
            return;
        }
        // SAFETY: made by `graph_begin` and nobody's but ours; it is not used after this.
        unsafe { (self.functions.graph_delete)(self.graph) };
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Graph").finish_non_exhaustive()
    }
}
