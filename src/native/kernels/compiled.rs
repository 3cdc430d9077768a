//! What is compiled from `kernels.cu` and its further parts: the handles of a device's kernels, and which of them a thread
//! uses.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_void};
use std::marker::PhantomData;
use std::ptr::null_mut;
use std::sync::{Mutex, PoisonError};

use tch::{Device, Kind, TchError, Tensor};

use super::PACK;
use super::tiles::{CONVOLUTIONS, Convolution, Held};
use crate::native::cuda::{functions, load_compiler};
use crate::native::torch::{checked, index};

const SOURCE: &str = concat!(include_str!("../kernels.cu"), include_str!("depthwise.cu"), include_str!("attention.cu"));

/// What was compiled, by device; never unloaded.
static COMPILED: Mutex<Vec<(usize, &'static Kernels)>> = Mutex::new(Vec::new());

thread_local! {
    /// The kernels that this thread's networks use.
    static USED: Cell<Option<&'static Kernels>> = const { Cell::new(None) };
}

pub(in crate::native) type Compile = unsafe extern "C" fn(i32, *const c_char, *mut *mut c_void) -> *mut c_char;
pub(in crate::native) type Find =
    unsafe extern "C" fn(*mut c_void, *const c_char, u32, *mut *mut c_void) -> *mut c_char;
pub(in crate::native) type Launch =
    unsafe extern "C" fn(*mut c_void, i32, u32, u32, u32, *mut *mut c_void) -> *mut c_char;

/// A layer norm that holds a row in `lanes` threads with at most `packs` packs each.
pub(super) struct Norm {
    pub(super) lanes: i64,
    pub(super) packs: i64,
    pub(super) kernel: Kernel,
}

/// A depthwise convolution.
pub(super) struct Depthwise {
    pub(super) of: Convolution,
    /// Whether it takes what pixels lack.
    pub(super) pending: bool,
    pub(super) kernel: Kernel,
}

/// The blocks that run a kernel, and of each its threads and the bytes of shared memory beside what it declares.
pub(super) struct Blocks {
    pub(super) count: i64,
    pub(super) threads: u32,
    pub(super) shared: u32,
}

/// A function on the device.
pub(super) struct Kernel(*mut c_void);

pub(super) struct Kernels {
    device: Device,
    index: i32,
    launch: Launch,
    /// From the narrowest to the widest.
    pub(super) norms: Vec<Norm>,
    pub(super) swiglu_norm: Norm,
    pub(super) depthwise: Vec<Depthwise>,
    pub(super) normalise: Kernel,
    pub(super) finish: Kernel,
    pub(super) rotate: Kernel,
    pub(super) linear_attention: Kernel,
}

// SAFETY: the driver's handles of functions are numbers of the process; any thread may use them, several at once too.
unsafe impl Send for Kernels {}
// SAFETY: as above.
unsafe impl Sync for Kernels {}

/// Compiles the kernels for `device`, once in this process: seconds. Nothing to do on the CPU.
///
/// # Errors
/// Why there are none for it.
pub fn compile(device: Device) -> Result<(), TchError> {
    let Device::Cuda(number) = device else { return Ok(()) };
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    if compiled.iter().all(|(known, _)| *known != number) {
        compiled.push((number, Box::leak(Box::new(Kernels::compile(number)?))));
    }
    Ok(())
}

/// As long as it lives, this thread's networks use kernels, or they do not.
#[must_use]
pub struct Scope {
    before: Option<&'static Kernels>,
    /// It is the thread's.
    _not_send: PhantomData<*const ()>,
}

/// Uses the kernels of `device` on this thread where they are `wanted` and [compiled](compile), else none.
pub fn scope(device: Device, wanted: bool) -> Scope {
    let find = |number: usize| {
        let compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
        compiled.iter().find(|(known, _)| *known == number).map(|(_, kernels)| *kernels)
    };
    let kernels = match device {
        Device::Cuda(number) if wanted => find(number),
        _ => None,
    };
    Scope { before: USED.replace(kernels), _not_send: PhantomData }
}

impl Drop for Scope {
    fn drop(&mut self) {
        USED.set(self.before);
    }
}

/// The kernels that this thread's networks use.
pub(super) fn in_use() -> Option<&'static Kernels> {
    USED.get()
}

impl Kernels {
    /// Those that this thread uses, where they take `x`.
    pub(super) fn of(x: &Tensor) -> Option<&'static Self> {
        USED.get().filter(|kernels| kernels.takes(x))
    }

    pub(super) fn takes(&self, x: &Tensor) -> bool {
        let of_device = x.kind() == Kind::BFloat16 && x.device() == self.device;
        of_device && is_dense(x) && x.numel() > 0 && !x.requires_grad()
    }

    /// Whether `x` is `count` dense numbers of this kind on the device.
    pub(super) fn has(&self, x: &Tensor, kind: Kind, count: i64) -> bool {
        x.kind() == kind && x.device() == self.device && x.numel() as i64 == count && is_dense(x)
    }

    fn compile(device: usize) -> Result<Self, TchError> {
        load_compiler()?;
        let (functions, index) = (functions()?, index(device)?);
        let source = CString::new(SOURCE).map_err(|error| TchError::Torch(error.to_string()))?;
        let mut module = null_mut();
        // SAFETY: the source ends in zero; writes one pointer.
        checked(unsafe { (functions.kernels_compile)(index, source.as_ptr(), &mut module) })?;
        // `shared`: the most bytes of shared memory that it is launched with.
        let find = |name: &CStr, shared: u32| {
            let mut kernel = null_mut();
            // SAFETY: the module was just loaded and stays so; the name ends in zero; writes one pointer.
            checked(unsafe { (functions.kernels_find)(module, name.as_ptr(), shared, &mut kernel) })?;
            Ok::<_, TchError>(Kernel(kernel))
        };
        let norm = |lanes, packs, name| Ok::<_, TchError>(Norm { lanes, packs, kernel: find(name, 0)? });
        let depthwise = |of: Convolution| {
            let kernel = find(of.name, of.most_shared())?;
            Ok::<_, TchError>(Depthwise { pending: of.size == 7, of, kernel })
        };
        Ok(Self {
            device: Device::Cuda(device),
            index,
            launch: functions.kernels_launch,
            norms: vec![
                norm(4, 3, c"norm_4_3")?,
                norm(8, 3, c"norm_8_3")?,
                norm(16, 3, c"norm_16_3")?,
                norm(32, 3, c"norm_32_3")?,
                norm(32, 8, c"norm_32_8")?,
            ],
            swiglu_norm: norm(32, 8, c"swiglu_norm_32_8")?,
            depthwise: CONVOLUTIONS.into_iter().map(depthwise).collect::<Result<_, _>>()?,
            normalise: find(c"normalise", 0)?,
            finish: find(c"finish", 0)?,
            rotate: find(c"rotate", 0)?,
            linear_attention: find(c"linear_attention", Held::most_shared())?,
        })
    }

    /// `arguments` are in the order in which the kernel declares them; numbers of 32 bits are the low halves.
    pub(super) fn launch(&self, kernel: &Kernel, blocks: Blocks, arguments: &[u64]) -> Result<(), TchError> {
        let Blocks { count, threads, shared } = blocks;
        // Kernels count their threads in 32 bits.
        let most = u32::MAX / threads;
        let blocks = u32::try_from(count).ok().filter(|&blocks| blocks <= most);
        let blocks = blocks.ok_or_else(|| TchError::Torch("a tensor is too large for one kernel".to_owned()))?;
        let mut pointers: Vec<*mut c_void> =
            arguments.iter().map(|argument| std::ptr::from_ref(argument).cast_mut().cast()).collect();
        // SAFETY: whoever calls this has checked that the tensors are as large as the kernel takes them for and are where
        // it runs. The caching allocator keeps what they hold from others on this stream until the kernel has run.
        checked(unsafe { (self.launch)(kernel.0, self.index, blocks, threads, shared, pointers.as_mut_ptr()) })
    }
}

/// Without gaps, and where packs can be read.
fn is_dense(x: &Tensor) -> bool {
    x.is_contiguous() && x.data_ptr().addr().is_multiple_of(2 * PACK as usize)
}
