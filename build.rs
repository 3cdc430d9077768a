//! Generates the gRPC code from `proto/` (no protoc needed), tells the linker where libtorch lies at run time, and the
//! program which version it is.

use std::{env, error::Error, path::PathBuf};

const PROTO: &str = "pcqa/v1/scoring.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    generate_grpc()?;
    link_libtorch();
    name_libtorch();
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
fn link_libtorch() {
    println!("cargo::rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib");
    if let Ok(directory) = env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{directory}");
    }
}

/// For `pcqa_build_info`.
fn name_libtorch() {
    let version = env::var("DEP_TCH_LIBTORCH_LIB").ok().and_then(|directory| {
        let file = PathBuf::from(directory).with_file_name("build-version");
        println!("cargo::rerun-if-changed={}", file.display());
        std::fs::read_to_string(file).ok()
    });
    println!("cargo::rustc-env=PCQA_LIBTORCH_VERSION={}", version.as_deref().map_or("unknown", str::trim));
}
