//! Flags, environment and file of `pcqa-server`: who wins, what is refused, and how.

use std::path::PathBuf;
use std::process::{Command, Output};

struct Call(Command);

impl Call {
    fn new(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pcqa-server"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PCQA_") {
                command.env_remove(name);
            }
        }
        command.args(arguments);
        Self(command)
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.0.env(name, value);
        self
    }

    fn output(mut self) -> Output {
        self.0.output().unwrap()
    }

    /// What `--print-config` prints.
    fn printed(mut self) -> toml::Table {
        let output = self.0.arg("--print-config").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().parse().unwrap()
    }

    /// The one line that refuses the configuration.
    fn refused(mut self) -> String {
        // Were it accepted, the test would end at once all the same.
        let output = self.0.arg("--print-config").output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{}", String::from_utf8_lossy(&output.stdout));
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        text
    }
}

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pcqa.toml");
    std::fs::write(&path, text).unwrap();
    (directory, path)
}

#[test]
fn flag_wins_over_environment_over_file_over_default() {
    let (_directory, path) = file("max_prompt_bytes = 3\nmax_rank_images = 3\nmax_video_frames = 3\nlog = \"debug\"\n");
    let path = path.to_str().unwrap();
    let printed = Call::new(&["--config", path, "--max-prompt-bytes", "1"])
        .env("PCQA_MAX_PROMPT_BYTES", "2")
        .env("PCQA_MAX_RANK_IMAGES", "2")
        .printed();
    assert_eq!(printed["max_prompt_bytes"].as_integer(), Some(1));
    assert_eq!(printed["max_rank_images"].as_integer(), Some(2));
    assert_eq!(printed["max_video_frames"].as_integer(), Some(3));
    assert_eq!(printed["log"].as_str(), Some("debug"));
    assert_eq!(printed["max_message_bytes"].as_integer(), Some(64 << 20));
    assert_eq!(printed["listen"].as_str(), Some("127.0.0.1:50051"));
}

#[test]
fn the_environment_can_name_the_file() {
    let (_directory, path) = file("max_rank_images = 3");
    let printed = Call::new(&[]).env("PCQA_CONFIG", path.to_str().unwrap()).printed();
    assert_eq!(printed["max_rank_images"].as_integer(), Some(3));
}

#[test]
fn the_printed_configuration_is_a_configuration_file() {
    let changes = [
        "--listen=[::1]:7",
        "--bundle=/b",
        "--device=cpu,cpu",
        "--dtype=f32",
        "--tta",
        "--threads=3",
        "--text-cache-bytes=0",
        "--max-queue-delay-seconds=0",
        "--max-video-seconds=1.5",
        "--log=warn,pcqa=debug",
        "--log-format=json",
        "--metrics-listen=127.0.0.1:9",
        "--metrics-sources=nightly, web",
        "--otlp-endpoint=http://[::1]:4317",
        "--trace-sample-ratio=0.5",
    ];
    let printed = Call::new(&changes).printed();
    assert_eq!(printed["device"].as_str(), Some("cpu,cpu"));
    assert_eq!(printed["max_queue_delay_seconds"].as_float(), Some(0.0));
    assert_eq!(printed["tta"].as_bool(), Some(true));
    assert_eq!(printed["max_video_seconds"].as_float(), Some(1.5));
    assert_eq!(printed["metrics_sources"].as_str(), Some("nightly,web"));
    let (_directory, path) = file(&toml::to_string(&printed).unwrap());
    assert_eq!(Call::new(&["--config", path.to_str().unwrap()]).printed(), printed);
    assert_ne!(Call::new(&[]).printed(), printed);
}

#[test]
fn every_option_of_the_file_is_a_flag_with_a_help_text() {
    let help = String::from_utf8(Call::new(&["--help"]).output().stdout).unwrap();
    for key in Call::new(&[]).printed().keys() {
        assert!(help.contains(&format!("--{}", key.replace('_', "-"))), "{key}\n{help}");
    }
}

#[test]
fn bad_values_are_refused_in_one_line_that_names_the_key() {
    let flags = [
        ("--listen=nowhere", "--listen"),
        ("--device=gpu", "--device"),
        ("--device=", "--device"),
        ("--device=cpu,", "--device"),
        ("--device=auto,cpu", "--device"),
        ("--max-batch-frames=0", "--max-batch-frames"),
        ("--max-queue-delay-seconds=-0.1", "--max-queue-delay-seconds"),
        ("--max-queue-delay-seconds=nan", "--max-queue-delay-seconds"),
        ("--max-in-flight-bytes=0", "--max-in-flight-bytes"),
        ("--text-cache-bytes=-1", "--text-cache-bytes"),
        ("--dtype=f64", "--dtype"),
        ("--max-image-bytes=0", "--max-image-bytes"),
        ("--max-image-bytes=many", "--max-image-bytes"),
        ("--max-video-seconds=-1", "--max-video-seconds"),
        ("--max-video-seconds=nan", "--max-video-seconds"),
        ("--drain-grace-seconds=1e300", "--drain-grace-seconds"),
        ("--log=pcqa=loud", "--log"),
        ("--log-format=xml", "--log-format"),
        ("--tta=perhaps", "--tta"),
        ("--no-such-option", "--no-such-option"),
        ("stray", "stray"),
        ("--listen=no\n\nwhere", r"'no\n\nwhere' for '--listen"),
        ("--no\n\noption", r"--no\n\noption"),
        ("--config=/no\nfile", r"/no\nfile"),
        ("--config=/does/not/exist.toml", "/does/not/exist.toml"),
    ];
    for (flag, key) in flags {
        let line = Call::new(&[flag]).refused();
        assert!(line.contains(key), "{flag}: {line}");
    }
}

#[test]
fn bad_files_are_refused_by_name_and_key() {
    let files = [
        ("max_prompt_byte = 1", "max_prompt_byte: there is no such option"),
        ("config = \"other.toml\"", "config: there is no such option"),
        ("print_config = true", "print_config: there is no such option"),
        ("max_prompt_bytes = \"long\"", "max_prompt_bytes: invalid value 'long'"),
        ("max_prompt_bytes = -1", "max_prompt_bytes: invalid value '-1'"),
        ("max_prompt_bytes = [1]", "max_prompt_bytes: is array, expected a single value"),
        ("max_prompt_bytes = 1\nlisten = ", "line 2: "),
        ("[limits]\nmax_prompt_bytes = 1", "limits: there is no such option"),
    ];
    for (text, problem) in files {
        let (_directory, path) = file(text);
        let line = Call::new(&["--config", path.to_str().unwrap()]).refused();
        assert!(line.contains(&format!("{}: {problem}", path.display())), "{text}: {line}");
    }
}

#[test]
fn bad_variables_are_refused_by_name() {
    let line = Call::new(&[]).env("PCQA_MAX_PROMPT_BYTES", "long").refused();
    assert!(line.contains("PCQA_MAX_PROMPT_BYTES: invalid value 'long'"), "{line}");
    let line = Call::new(&[]).env("PCQA_MAX_PROMPT_BYTE", "1").refused();
    assert!(line.contains("PCQA_MAX_PROMPT_BYTE: there is no such option"), "{line}");
    for (name, value) in [("PCQA_LISTEN_PORT", "9"), ("PCQA_PORT_NUMBER", "9"), ("PCQA_MAX_PORT_9_BYTES", "9")] {
        let line = Call::new(&[]).env(name, value).refused();
        assert!(line.contains(&format!("{name}: there is no such option")), "{line}");
    }
}

#[test]
fn variables_of_the_client_of_the_setup_and_of_kubernetes_are_let_be() {
    let call = Call::new(&[])
        .env("PCQA_SERVER", "http://127.0.0.1:50051")
        .env("PCQA_CACHE", "/tmp/cache")
        .env("PCQA_SERVICE_HOST", "10.0.0.1")
        .env("PCQA_PORT", "tcp://10.0.0.1:50051")
        .env("PCQA_PORT_50051_TCP_ADDR", "10.0.0.1");
    call.printed();
}

#[test]
fn a_negative_number_is_a_bad_value_and_no_option() {
    let line = Call::new(&["--drain-wait-seconds", "-1"]).refused();
    assert!(line.contains("'-1' for '--drain-wait-seconds"), "{line}");
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let pairs: [(&[&str], &str); 9] = [
        (&["--max-message-bytes=1000000"], "max_image_bytes: is 33554432, must be at most 1000000 (max_message_bytes)"),
        (&["--max-queue-frames=63"], "max_rank_images: is 32, must be at most 31 (half of max_queue_frames)"),
        (
            &["--max-in-flight-bytes=134217727"],
            "max_message_bytes: is 67108864, must be at most 67108863 (half of max_in_flight_bytes)",
        ),
        (&["--max-timeout-seconds=29"], "default_timeout_seconds: is 30, must be at most 29 (max_timeout_seconds)"),
        (&["--max-message-bytes=4294967296"], "max_message_bytes: is 4294967296"),
        (&["--decode-threads=18446744073709551615"], "decode_threads: is 18446744073709551615, must be at most"),
        (&["--decoder-workers=4097"], "decoder_workers: is 4097, must be at most"),
        (&["--max-header-bytes=1"], "max_header_bytes: is 1, must be at least 1024"),
        (&["--decoder-memory-bytes=1000"], "decoder_memory_bytes: is 1000, must be at least 536870912"),
    ];
    for (flags, problem) in pairs {
        let line = Call::new(flags).refused();
        assert!(line.contains(problem), "{line}");
    }
}

#[test]
fn a_device_that_is_not_there_is_named() {
    for devices in ["cuda:7", "cpu,cuda:7"] {
        let output = Call::new(&[&format!("--device={devices}"), "--listen=127.0.0.1:0"]).output();
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("device: is cuda:7, but "), "{text}");
        assert!(text.contains("libtorch_cuda.so") || text.contains("libtorch sees"), "{text}");
    }
}

#[test]
fn devices_are_listed_and_behind_a_gpu_numbers_are_more_gpus() {
    for (given, read) in [
        ("auto", "auto"),
        ("cpu", "cpu"),
        ("cuda:0,1", "cuda:0,cuda:1"),
        ("cuda:0,cuda:1", "cuda:0,cuda:1"),
        ("cpu,cuda:3,0", "cpu,cuda:3,cuda:0"),
    ] {
        let printed = Call::new(&[&format!("--device={given}")]).printed();
        assert_eq!(printed["device"].as_str(), Some(read));
    }
    for wrong in ["0", "cpu,1", "cuda", "cuda:", "cuda:x", "cuda:0,", "gpu:0"] {
        let line = Call::new(&[&format!("--device={wrong}")]).refused();
        assert!(line.contains("device") && line.contains("cuda:N"), "{line}");
    }
}

#[test]
fn switches_are_set_with_and_without_a_value() {
    for (flags, is_on) in [
        (&["--tta"][..], true),
        (&["--tta", "false"], false),
        (&["--tta=true"], true),
        (&["--tta", "--cuda-graphs", "false"], true),
    ] {
        assert_eq!(Call::new(flags).printed()["tta"].as_bool(), Some(is_on), "{flags:?}");
    }
    let printed = Call::new(&["--cuda-graphs", "false", "--cuda-kernels=false"]).printed();
    assert_eq!((printed["cuda_graphs"].as_bool(), printed["cuda_kernels"].as_bool()), (Some(false), Some(false)));
    assert!(Call::new(&["--tta", "perhaps"]).refused().contains("--tta"));
    // What else there is to do is no value.
    let output = Call::new(&["--tta", "metrics"]).output();
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("pcqa_"));
}

#[test]
fn one_connection_can_hold_a_rank_call_and_a_message_of_the_longest_kind() {
    Call::new(&["--max-queue-frames=64", "--max-in-flight-bytes=134217728"]).printed();
}

#[test]
fn nobody_listens_to_everybody_by_accident() {
    for listen in ["0.0.0.0:1", "[::]:1"] {
        let listen = format!("--listen={listen}");
        let line = Call::new(&[&listen]).refused();
        assert!(line.contains("keys_file") && line.contains("allow_unprotected"), "{line}");
        let line = Call::new(&[&listen, "--tls-certificate=c", "--tls-key=k"]).refused();
        assert!(line.contains("keys_file"), "TLS alone keeps nobody out: {line}");
        Call::new(&[&listen]).env("PCQA_ALLOW_UNPROTECTED", "true").printed();
        Call::new(&[&listen, "--keys-file=keys"]).printed();
        Call::new(&[&listen, "--tls-certificate=c", "--tls-key=k", "--tls-client-ca=ca"]).printed();
    }
    for listen in ["127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
        Call::new(&[&format!("--listen={listen}")]).printed();
    }
    for half in ["--tls-certificate=c", "--tls-key=k", "--tls-client-ca=ca"] {
        assert!(Call::new(&[half]).refused().contains("too"), "{half}");
    }
}
