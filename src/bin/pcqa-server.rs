//! The scoring service. Exit codes: 0 after a drain that a signal asked for, 64 for a refused configuration, 1 for
//! everything else that ended it.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use pcqa::native;
use pcqa::server::{self, Config, EarlySignals, Ending, Parsed};

/// EX_USAGE of sysexits.h.
const REFUSED_CONFIGURATION: u8 = 64;

fn main() -> ExitCode {
    let early = match EarlySignals::listen() {
        Ok(early) => early,
        Err(error) => {
            complain(&format!("signals cannot be received: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let config = match Config::from_process() {
        Ok(Parsed::Serve(config)) => config,
        Ok(Parsed::Print(text)) => {
            return match writeln!(std::io::stdout(), "{}", text.trim_end()) {
                // A reader that has seen enough, such as `head`, is no failure.
                Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                    complain(&format!("cannot print: {error}"));
                    ExitCode::FAILURE
                }
                _ => ExitCode::SUCCESS,
            };
        }
        Err(error) => {
            complain(&error.to_string());
            return ExitCode::from(REFUSED_CONFIGURATION);
        }
    };
    // Before there are threads, and before anything asks libtorch. Who asks for a GPU in vain is told why when loading.
    if config.wants_cuda() {
        let _ = native::load_cuda();
    }
    server::log(&config.log);

    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no runtime");
            return ExitCode::FAILURE;
        }
    };
    let code = match runtime.block_on(server::run(*config, &early)) {
        Ok(Ending::Drained | Ending::Asked) => 0,
        Ok(Ending::Cut) => {
            tracing::warn!("ended at once");
            1
        }
        Ok(Ending::DeviceLost) => 1,
        Err(error) => {
            tracing::error!("{error:#}");
            // Whoever wants no log still has to know why there is no service.
            if !tracing::enabled!(tracing::Level::ERROR) {
                complain(&format!("{error:#}"));
            }
            1
        }
    };
    // A device's thread may still compute, or a bundle be loaded that nobody will see. The log is not buffered; decoder
    // processes end with this one.
    native::end_at_once(code)
}

/// One line on standard error, which may be closed.
fn complain(problem: &str) {
    let _ = writeln!(std::io::stderr(), "pcqa-server: {problem}");
}
