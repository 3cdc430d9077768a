//! What the binaries link.

use std::process::Command;

fn libraries(binary: &str) -> String {
    let output = Command::new("ldd").arg(binary).output().expect("ldd is installed");
    assert!(output.status.success(), "ldd {binary}");
    String::from_utf8(output.stdout).expect("library names are text")
}

#[test]
fn only_the_decoder_links_ffmpeg() {
    assert!(libraries(env!("CARGO_BIN_EXE_pcqa-decoder")).contains("libavcodec"));
    let others = [env!("CARGO_BIN_EXE_pcqa-server"), env!("CARGO_BIN_EXE_pcqa"), env!("CARGO_BIN_EXE_pcqa-train")];
    for binary in others {
        let libraries = libraries(binary);
        for name in ["libav", "libsw"] {
            assert!(!libraries.contains(name), "{binary} links {name}*:\n{libraries}");
        }
    }
}

#[test]
fn the_decoder_links_no_torch() {
    let libraries = libraries(env!("CARGO_BIN_EXE_pcqa-decoder"));
    for name in ["libtorch", "libc10", "libcuda"] {
        assert!(!libraries.contains(name), "pcqa-decoder links {name}:\n{libraries}");
    }
}
