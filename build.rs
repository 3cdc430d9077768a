//! Generates the gRPC code from `proto/` (no protoc needed), compiles the two C++ shims of `src/native/`, tells the linker
//! where libtorch lies at run time, and the program which version it is.

use std::path::{Path, PathBuf};
use std::{env, error::Error};

const PROTO: &str = "pcqa/v1/scoring.proto";
const SHIM: &str = "src/native/shim.cpp";
const CUDA_SHIM: [&str; 2] = ["src/native/graphs.cpp", "src/native/kernels.cpp"];
const SHIMS_HEADER: &str = "src/native/guarded.h";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    generate_grpc()?;
    let libtorch = PathBuf::from(env::var("DEP_TCH_LIBTORCH_LIB")?);
    let headers = libtorch.with_file_name("include");
    cpp(&headers).file(SHIM).try_compile("pcqa_shim")?;
    println!("cargo::rerun-if-changed={SHIM}");
    println!("cargo::rerun-if-changed={SHIMS_HEADER}");
    build_cuda_shim(&headers)?;
    link_libtorch(&libtorch);
    name_libtorch(&libtorch);
    Ok(())
}

fn cpp(headers: &Path) -> cc::Build {
    let mut build = cc::Build::new();
    // Warnings in libtorch's headers are not ours to mend.
    build.cpp(true).std("c++17").opt_level(2).debug(false).warnings(false).flag("-isystem").flag(headers);
    build
}

/// A shared library that becomes part of the programs and is loaded where CUDA is. It needs CUDA's headers, beside
/// libtorch's or in `CUDA_HOME`, and none of its libraries; without the headers the programs do without it.
fn build_cuda_shim(headers: &Path) -> Result<(), Box<dyn Error>> {
    println!("cargo::rustc-check-cfg=cfg(cuda_shim)");
    for file in CUDA_SHIM {
        println!("cargo::rerun-if-changed={file}");
    }
    println!("cargo::rerun-if-env-changed=CUDA_HOME");
    let of_toolkit = env::var("CUDA_HOME").map(|home| Path::new(&home).join("include"));
    let places = [Some(headers.to_owned()), of_toolkit.ok()];
    let Some(cuda) = places.into_iter().flatten().find(|place| place.join("cuda.h").exists()) else {
        println!("cargo::warning=no cuda.h beside libtorch's headers or in CUDA_HOME: without CUDA graphs and kernels");
        return Ok(());
    };
    let shim = PathBuf::from(env::var("OUT_DIR")?).join("libpcqa_cuda.so");
    let mut compiler = cpp(headers).flag("-isystem").flag(cuda).try_get_compiler()?.to_command();
    let done = compiler.args(["-shared", "-Wl,-s", "-o"]).arg(&shim).args(CUDA_SHIM).status()?;
    if !done.success() {
        return Err(format!("{} does not compile", CUDA_SHIM.join(" or ")).into());
    }
    println!("cargo::rustc-cfg=cuda_shim");
    println!("cargo::rustc-env=PCQA_CUDA_SHIM={}", shim.display());
    Ok(())
}

fn generate_grpc() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true);
    let descriptors = compiler.open_files([PROTO])?.file_descriptor_set();
    let out = PathBuf::from(env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .codec_path("crate::proto::codec::StrictCodec")
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}

/// Binaries find libtorch where the build found it, or beside an installed `bin/`, without LD_LIBRARY_PATH.
fn link_libtorch(directory: &Path) {
    println!("cargo::rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib");
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", directory.display());
}

/// For `pcqa_build_info`.
fn name_libtorch(directory: &Path) {
    let file = directory.with_file_name("build-version");
    println!("cargo::rerun-if-changed={}", file.display());
    let version = std::fs::read_to_string(file).ok();
    println!("cargo::rustc-env=PCQA_LIBTORCH_VERSION={}", version.as_deref().map_or("unknown", str::trim));
}
