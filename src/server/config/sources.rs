//! Flags, environment and file, laid over each other.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::error::{ContextValue, ErrorKind};
use clap::{Arg, Args, Command, Parser, Subcommand};

use super::{Config, ConfigError};
use crate::metrics;
use crate::server::trust;

const PREFIX: &str = "PCQA_";

/// Variables of the client and of deploy/setup, which may stand in the same environment.
const OF_OTHERS: &[&str] =
    &["PCQA_SERVER", "PCQA_API_KEY", "PCQA_CLIENT_TLS_CA", "PCQA_CLIENT_TLS_CERT", "PCQA_CLIENT_TLS_KEY", "PCQA_CACHE"];

/// What the command line asks for.
#[derive(Debug, PartialEq)]
pub enum Parsed {
    /// To serve.
    Serve(Box<Config>),
    /// To print this text and end: help, version, the configuration, the metrics, or a key.
    Print(String),
}

/// Scores AI-generated images and videos for the prompts that made them, over gRPC
///
/// Every option can be given as a flag (--max-image-bytes 1000000), as an environment variable (PCQA_MAX_IMAGE_BYTES)
/// or as a key of the configuration file (max_image_bytes = 1000000). A flag wins over the environment, the environment
/// over the file, the file over the default. A configuration that is refused ends the process with exit code 64; a file,
/// a device or a port that it names and that cannot be used, with 1.
#[derive(Debug, Parser)]
#[command(
    name = "pcqa-server",
    version,
    max_term_width = 110,
    args_override_self = true,
    subcommand_precedence_over_arg = true
)]
#[command(mut_args(numbers_may_be_negative))]
struct Cli {
    /// TOML file with any of the options below (or PCQA_CONFIG)
    #[arg(long, value_name = "FILE", help_heading = "Service")]
    config: Option<PathBuf>,
    /// Print the configuration in force, as a file that --config reads, and end
    #[arg(long, help_heading = "Service")]
    print_config: bool,
    #[command(flatten)]
    options: Config,
    #[command(subcommand)]
    command: Option<Do>,
}

/// `--max-queue-delay-seconds -1` is a bad number, not an option named -1.
fn numbers_may_be_negative(argument: Arg) -> Arg {
    let takes_values = argument.get_action().takes_values();
    argument.allow_negative_numbers(takes_values)
}

/// What else there is to do than to serve.
#[derive(Debug, Subcommand)]
enum Do {
    /// Make a new API key and print it, with its line for --keys-file
    ///
    /// The line holds the key's hash: whoever reads the file has no key, and a key that is lost cannot be had again.
    /// To replace one, add the line of a second key of the same name, hand that key out, and take the first line away.
    Key {
        /// Whose key it is: a name for the log, metrics and limits
        #[arg(long, value_name = "NAME")]
        name: String,
    },
    /// Print a Markdown table of every metric that there is
    Metrics,
}

/// The file and the environment are turned into flags that stand before the real ones: the last of several wins.
pub(super) fn read(
    arguments: impl Iterator<Item = OsString>,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Parsed, ConfigError> {
    let given: Vec<OsString> = arguments.skip(1).collect();
    if let Err(error) = parse(&given) {
        return match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(Parsed::Print(error.render().to_string())),
            _ => Err(ConfigError(first_paragraph(&error))),
        };
    }
    match parse(&given) {
        Ok(Cli { command: Some(Do::Key { name }), .. }) => return new_key(&name),
        Ok(Cli { command: Some(Do::Metrics), .. }) => return Ok(Parsed::Print(metrics::markdown())),
        _ => {}
    }
    let keys = keys();
    let mut flags = of_environment(environment, &keys)?;
    flags.extend(given);
    if let Some(path) = parsed(&flags)?.config {
        flags.splice(0..0, of_file(&path, &keys)?);
    }
    let cli = parsed(&flags)?;
    cli.options.check()?;
    if cli.print_config {
        return Ok(Parsed::Print(cli.options.to_toml()?));
    }
    Ok(Parsed::Serve(Box::new(cli.options)))
}

fn new_key(name: &str) -> Result<Parsed, ConfigError> {
    let (key, line) = trust::new_key(name).map_err(|problem| ConfigError(format!("--name: {problem}")))?;
    Ok(Parsed::Print(format!(
        "# the key, for whoever calls: nobody can show it again\n{key}\n# its line for --keys-file\n{line}"
    )))
}

/// The keys that files and the environment may set.
fn keys() -> Vec<String> {
    let options = Config::augment_args(Command::new("options"));
    options.get_arguments().map(|argument| argument.get_id().to_string()).collect()
}

fn of_environment(
    environment: impl Iterator<Item = (OsString, OsString)>,
    keys: &[String],
) -> Result<Vec<OsString>, ConfigError> {
    let mut flags = Vec::new();
    for (name, value) in environment {
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
        if OF_OTHERS.contains(&name) || is_service_link(name, &value) {
            continue;
        }
        let key = name[PREFIX.len()..].to_lowercase();
        if key != "config" && !keys.contains(&key) {
            return Err(ConfigError(format!("{name}: there is no such option (see --help)")));
        }
        flags.push(flag(name, &key, value)?);
    }
    Ok(flags)
}

/// Kubernetes gives every pod variables about the services of its namespace: of a service `pcqa`, PCQA_SERVICE_HOST,
/// PCQA_PORT and PCQA_PORT_50051_TCP_ADDR. They are not ours and must not stop us.
fn is_service_link(name: &str, value: &OsStr) -> bool {
    let is_url =
        ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.as_encoded_bytes().starts_with(scheme.as_bytes()));
    let numbered = |(at, before): (usize, &str)| is_numbered_port(&name[at + before.len()..]);
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.ends_with("_PORT") && is_url)
        || name.match_indices("_PORT_").any(numbered)
}

/// `50051_TCP`, `50051_TCP_ADDR` and the like.
fn is_numbered_port(rest: &str) -> bool {
    let (number, protocol, part) = match rest.split('_').collect::<Vec<_>>()[..] {
        [number, protocol] => (number, protocol, "PORT"),
        [number, protocol, part] => (number, protocol, part),
        _ => return false,
    };
    number.parse::<u16>().is_ok()
        && ["TCP", "UDP", "SCTP"].contains(&protocol)
        && ["ADDR", "PORT", "PROTO"].contains(&part)
}

fn of_file(path: &Path, keys: &[String]) -> Result<Vec<OsString>, ConfigError> {
    let refused = |problem: String| ConfigError(format!("{}: {problem}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| refused(at_line(&text, &error)))?;
    let mut flags = Vec::new();
    for (key, value) in table {
        if !keys.contains(&key) {
            return Err(refused(format!("{key}: there is no such option (see --help)")));
        }
        let value = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) => value.to_string(),
            other => return Err(refused(format!("{key}: is {}, expected a single value", other.type_str()))),
        };
        flags.push(flag(&format!("{}: {key}", path.display()), &key, value.into())?);
    }
    Ok(flags)
}

/// `--key=value`, refused under the name of its source when the value is bad.
fn flag(source: &str, key: &str, value: OsString) -> Result<OsString, ConfigError> {
    let mut flag = OsString::from(format!("--{}=", key.replace('_', "-")));
    flag.push(value);
    match parse(std::slice::from_ref(&flag)) {
        Ok(_) => Ok(flag),
        Err(error) => Err(ConfigError(format!("{source}: {}", first_paragraph(&error)))),
    }
}

fn parse(flags: &[OsString]) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once(OsString::from("pcqa-server")).chain(flags.iter().cloned()))
}

fn parsed(flags: &[OsString]) -> Result<Cli, ConfigError> {
    parse(flags).map_err(|error| ConfigError(first_paragraph(&error)))
}

/// The first paragraph of clap's message; usage and tips are left to --help.
fn first_paragraph(error: &clap::Error) -> String {
    let mut message = error.render().to_string();
    // A line break in a value is no end of the paragraph.
    for (_, value) in error.context() {
        if let ContextValue::String(value) = value {
            message = message.replace(value.as_str(), &in_one_line(value));
        }
    }
    let lines: Vec<&str> = message.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let line = lines.join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}

/// `text` with its line breaks and other control characters escaped.
pub(super) fn in_one_line(text: &str) -> String {
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escaped).collect()
}

fn at_line(text: &str, error: &toml::de::Error) -> String {
    let problem = error.message().replace('\n', " ");
    match error.span() {
        Some(span) => {
            let line = text.as_bytes().iter().take(span.start).filter(|byte| **byte == b'\n').count() + 1;
            format!("line {line}: {problem}")
        }
        None => problem,
    }
}
