//! Under what terms weights may be used: said before anything is fetched, and to be accepted where they restrict.

use std::io::Read;

use anyhow::bail;

use super::catalogue::{Licence, Model};
use super::hub::Hub;
use super::patience::patiently;
use super::refusal::Failure;
use super::repository::Repository;
use super::say;

/// Longest licence that is printed, in bytes.
const LONGEST: u64 = 256 << 10;

/// A model whose terms have been looked up.
pub(super) struct Terms<'a> {
    pub(super) model: &'static Model,
    pub(super) repository: &'a Repository,
}

impl Terms<'_> {
    /// The licence's name, by the hub where it says one.
    pub(super) fn name(&self) -> String {
        let known = match self.model.licence {
            Licence::Open(name) => name,
            Licence::Restricted => "restricted",
        };
        self.repository.licence().unwrap_or_else(|| known.to_owned())
    }

    /// Whether they must be accepted: those that are known to restrict, and those that are not the open ones that they
    /// are known as.
    fn must_be_accepted(&self) -> bool {
        match self.model.licence {
            Licence::Open(name) => !self.name().eq_ignore_ascii_case(name),
            Licence::Restricted => true,
        }
    }
}

/// Prints the terms of all models that restrict their use.
///
/// # Errors
///
/// When one of them is not `accepted`.
pub(super) fn settle(hub: &Hub, all: &[Terms], accepted: &[&'static Model]) -> anyhow::Result<()> {
    let mut missing = Vec::new();
    for terms in all.iter().filter(|terms| terms.must_be_accepted()) {
        let Terms { model, repository } = terms;
        let page = hub.page(model.repository);
        say(&format!("{}: {page}: licence {}, which restricts its use", model.name, terms.name()))?;
        if accepted.contains(model) {
            continue;
        }
        let mut files = repository.licence_files().peekable();
        if files.peek().is_none() {
            say("\n    its text is on the page of the repository\n")?;
        }
        for file in files {
            let text = patiently(|| read(hub, model, repository, file))?;
            say(&format!("\n{}\n", text.trim()))?;
        }
        missing.push(*model);
    }
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|model| model.name).collect();
    let flags: Vec<String> = names.iter().map(|name| format!("--accept-licence {name}")).collect();
    bail!("{}: the licence is to be accepted first: read it, then add {}", names.join(", "), flags.join(" "))
}

fn read(hub: &Hub, model: &Model, repository: &Repository, file: &str) -> Result<String, Failure> {
    let answer = hub.open(model.repository, &repository.sha, file, 0)?;
    let mut bytes = Vec::new();
    let read = answer.body.into_reader().take(LONGEST).read_to_end(&mut bytes);
    read.map_err(|error| Failure::Again(error.into()))?;
    // Fit for a terminal.
    let plain = |character: &char| *character == '\n' || !character.is_control();
    Ok(String::from_utf8_lossy(&bytes).chars().filter(plain).collect())
}
