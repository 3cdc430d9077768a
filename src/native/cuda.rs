//! libtorch's CUDA part and the second shim (`graphs.cpp`, `kernels.cpp`), which are not linked but loaded where they are
//! there: one program for machines with and without GPUs.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use tch::TchError;

use super::kernels::{Compile, Find, Launch};
use super::torch::{checked, index};

/// What was found, once.
static CUDA: OnceLock<Result<Shim, String>> = OnceLock::new();

type DeviceName = unsafe extern "C" fn(i32, *mut c_char, usize) -> *mut c_char;
type ComputeCapability = unsafe extern "C" fn(i32, *mut i32) -> *mut c_char;
type MemoryCap = unsafe extern "C" fn(i32, f64) -> *mut c_char;
type GraphPool = unsafe extern "C" fn(*mut u64) -> *mut c_char;
type GraphBegin = unsafe extern "C" fn(i32, *const u64, *mut *mut c_void) -> *mut c_char;
type GraphCall = unsafe extern "C" fn(*mut c_void) -> *mut c_char;
type GraphEnd = unsafe extern "C" fn(*mut c_void);

/// The second shim's functions.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(cuda_shim), allow(dead_code))]
pub(super) struct Functions {
    device_name: DeviceName,
    compute_capability: ComputeCapability,
    memory_cap: MemoryCap,
    pub graph_pool: GraphPool,
    pub graph_begin: GraphBegin,
    pub graph_end: GraphCall,
    pub graph_abandon: GraphEnd,
    pub graph_replay: GraphCall,
    pub graph_delete: GraphEnd,
    pub kernels_compile: Compile,
    pub kernels_find: Find,
    pub kernels_launch: Launch,
}

/// The second shim, or why it is not there; CUDA can be used without.
type Shim = Result<Functions, String>;

/// Loads libtorch's CUDA part and the second shim. It has to come before the first call about CUDA, and is best made
/// before there are other threads. Does nothing the second time.
///
/// # Errors
/// Why CUDA cannot be used here, with the library that is missing.
pub fn load_cuda() -> Result<(), &'static str> {
    let found = CUDA.get_or_init(|| {
        open(c"libtorch_cuda.so", libc::RTLD_NOW | libc::RTLD_GLOBAL)?;
        Ok(load_shim())
    });
    found.as_ref().map(|_| ()).map_err(String::as_str)
}

/// Whether [`load_cuda`] has found CUDA.
///
/// # Errors
/// Why not.
pub fn cuda() -> Result<(), &'static str> {
    match CUDA.get() {
        Some(found) => found.as_ref().map(|_| ()).map_err(String::as_str),
        None => Err("libtorch's CUDA part was not loaded"),
    }
}

/// Number of CUDA devices that libtorch can use, where [`load_cuda`] has found CUDA.
///
/// # Errors
/// Why CUDA cannot be used.
pub fn gpus() -> Result<usize, &'static str> {
    // Asked before, libtorch would believe for good that there is none.
    cuda()?;
    Ok(usize::try_from(tch::Cuda::device_count()).unwrap_or(0))
}

/// The name of a CUDA device.
///
/// # Errors
/// Those of CUDA; what is missing.
pub fn device_name(device: usize) -> Result<String, TchError> {
    let functions = functions()?;
    let mut name = [0u8; 256];
    // SAFETY: writes at most one byte less than it is told, so that the text ends in zero.
    checked(unsafe { (functions.device_name)(index(device)?, name.as_mut_ptr().cast(), name.len()) })?;
    let name = CStr::from_bytes_until_nul(&name).map_err(|error| TchError::Torch(error.to_string()))?;
    Ok(name.to_string_lossy().into_owned())
}

/// Whether a CUDA device multiplies bf16 by itself, which those of compute capability 8.0 and above do. One of which that
/// cannot be said counts as new.
pub fn multiplies_bf16(device: usize) -> bool {
    let major = || -> Result<i32, TchError> {
        let mut major = 0;
        // SAFETY: writes one number.
        checked(unsafe { (functions()?.compute_capability)(index(device)?, &mut major) })?;
        Ok(major)
    };
    major().map_or(true, |major| major >= 8)
}

/// From now on libtorch takes no more than `fraction`, 0 to 1, of a CUDA device's memory: beyond, it is out of memory.
///
/// # Errors
/// Those of libtorch; what is missing.
pub fn memory_cap(device: usize, fraction: f64) -> Result<(), TchError> {
    // SAFETY: sets a number of libtorch's allocator.
    checked(unsafe { (functions()?.memory_cap)(index(device)?, fraction) })
}

/// Loads NVRTC and the driver's interface, which the second shim's part for kernels looks for in the process.
pub(super) fn load_compiler() -> Result<(), TchError> {
    cuda().map_err(|problem| TchError::Torch(problem.to_owned()))?;
    open(c"libcaffe2_nvrtc.so", libc::RTLD_NOW | libc::RTLD_GLOBAL).map(drop).map_err(TchError::Torch)
}

/// The second shim's functions, where it is there.
pub(super) fn functions() -> Result<Functions, TchError> {
    cuda().map_err(|problem| TchError::Torch(problem.to_owned()))?;
    match CUDA.get() {
        Some(Ok(Ok(functions))) => Ok(*functions),
        Some(Ok(Err(problem))) | Some(Err(problem)) => Err(TchError::Torch(problem.clone())),
        None => Err(TchError::Torch("libtorch's CUDA part was not loaded".to_owned())),
    }
}

/// What dlopen gives, for good: these libraries are never closed.
fn open(name: &CStr, flags: c_int) -> Result<*mut c_void, String> {
    // SAFETY: the name is a C string. libtorch's initialisers register its kernels, the shim has none.
    let library = unsafe { libc::dlopen(name.as_ptr(), flags) };
    if library.is_null() { Err(last_error()) } else { Ok(library) }
}

fn last_error() -> String {
    // SAFETY: a text that ends in zero, or null; it holds until this thread's next call of dlopen's family.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "dlopen failed and does not say why".to_owned();
    }
    // SAFETY: as above.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

#[cfg(not(cuda_shim))]
fn load_shim() -> Shim {
    Err("this build is without the CUDA shim: the headers of CUDA were not there".to_owned())
}

/// The shim is part of this program and is loaded from memory: there is no second file to install.
#[cfg(cuda_shim)]
fn load_shim() -> Shim {
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::AsRawFd;

    const SHIM: &[u8] = include_bytes!(env!("PCQA_CUDA_SHIM"));
    let in_memory = || -> std::io::Result<File> {
        let mut file = File::from(rustix::fs::memfd_create(c"pcqa-cuda-shim", rustix::fs::MemfdFlags::CLOEXEC)?);
        file.write_all(SHIM)?;
        Ok(file)
    };
    let file = in_memory().map_err(|error| format!("the CUDA shim has no place in memory: {error}"))?;
    let path =
        std::ffi::CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(|error| error.to_string())?;
    let library = open(&path, libc::RTLD_NOW | libc::RTLD_LOCAL)?;
    Functions::of(library)
}

#[cfg(cuda_shim)]
impl Functions {
    fn of(library: *mut c_void) -> Shim {
        let find = |name: &CStr| {
            // SAFETY: `library` is open and stays so; the name is a C string.
            let function = unsafe { libc::dlsym(library, name.as_ptr()) };
            if function.is_null() { Err(last_error()) } else { Ok(function) }
        };
        // SAFETY: `graphs.cpp` and `kernels.cpp` declare each of them with the type that the field has.
        unsafe {
            Ok(Self {
                device_name: std::mem::transmute::<*mut c_void, DeviceName>(find(c"pcqa_device_name")?),
                compute_capability: std::mem::transmute::<*mut c_void, ComputeCapability>(find(
                    c"pcqa_compute_capability",
                )?),
                memory_cap: std::mem::transmute::<*mut c_void, MemoryCap>(find(c"pcqa_memory_cap")?),
                graph_pool: std::mem::transmute::<*mut c_void, GraphPool>(find(c"pcqa_graph_pool")?),
                graph_begin: std::mem::transmute::<*mut c_void, GraphBegin>(find(c"pcqa_graph_begin")?),
                graph_end: std::mem::transmute::<*mut c_void, GraphCall>(find(c"pcqa_graph_end")?),
                graph_abandon: std::mem::transmute::<*mut c_void, GraphEnd>(find(c"pcqa_graph_abandon")?),
                graph_replay: std::mem::transmute::<*mut c_void, GraphCall>(find(c"pcqa_graph_replay")?),
                graph_delete: std::mem::transmute::<*mut c_void, GraphEnd>(find(c"pcqa_graph_delete")?),
                kernels_compile: std::mem::transmute::<*mut c_void, Compile>(find(c"pcqa_kernels_compile")?),
                kernels_find: std::mem::transmute::<*mut c_void, Find>(find(c"pcqa_kernels_find")?),
                kernels_launch: std::mem::transmute::<*mut c_void, Launch>(find(c"pcqa_kernels_launch")?),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_there_is_named() {
        let problem = open(c"libtorch_cuda_of_nobody.so", libc::RTLD_NOW).unwrap_err();
        assert!(problem.contains("libtorch_cuda_of_nobody.so"), "{problem}");
    }

    #[test]
    fn without_cuda_every_call_says_why() {
        if load_cuda().is_ok() {
            return;
        }
        let why = cuda().unwrap_err();
        assert!(why.contains("libtorch_cuda.so"), "{why}");
        for refused in [device_name(0).map(drop), memory_cap(0, 0.5), super::super::empty_cache()] {
            assert!(refused.unwrap_err().to_string().contains(why));
        }
        let refused = super::super::wait_for(tch::Device::Cuda(0)).unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }

    /// The shim needs libtorch_cuda.so; without, what it lacks must be its symbols and not the file.
    #[cfg(cuda_shim)]
    #[test]
    fn the_shim_is_in_the_program() {
        if load_cuda().is_ok() {
            load_shim().unwrap();
            return;
        }
        let problem = load_shim().unwrap_err();
        assert!(problem.contains("undefined symbol"), "{problem}");
    }
}
