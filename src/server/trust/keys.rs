//! The door that asks for a key.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Result, anyhow};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use subtle::ConstantTimeEq;

use super::account::{Account, Guest, Pass};
use super::key_file::{self, KeyDigest};
use crate::metrics;
use crate::server::error::ServiceError;

/// Lets calls in: all of them, or those with a key. Clones are the same door.
#[derive(Clone)]
pub(in crate::server) struct Door(Option<Arc<RwLock<Keys>>>);

#[derive(Default)]
struct Keys {
    entries: Vec<(KeyDigest, Arc<Pass>)>,
}

impl Door {
    /// Everybody is let in.
    pub fn open() -> Self {
        Self(None)
    }

    /// Whoever has a key of the file with these contents is let in.
    pub fn locked(file: &[u8]) -> Result<Self> {
        Ok(Self(Some(Arc::new(RwLock::new(Keys::default().changed(file)?)))))
    }

    /// From now on the keys of this file hold. What a holder uses goes on being counted. Calls in progress stay, but a
    /// stream by a key that is gone has no more items scored.
    pub fn change_keys(&self, file: &[u8]) -> Result<()> {
        if let Some(keys) = &self.0 {
            // Calls are let in meanwhile: the file may be long, and nobody else changes what is read here.
            let changed = keys.read().unwrap_or_else(PoisonError::into_inner).changed(file)?;
            let mut keys = keys.write().unwrap_or_else(PoisonError::into_inner);
            for (digest, pass) in &keys.entries {
                if !changed.entries.iter().any(|(known, _)| known == digest) {
                    pass.revoke();
                }
            }
            *keys = changed;
        }
        Ok(())
    }

    /// Lets a call with these headers in, within its key's limit of calls.
    pub fn admit(&self, headers: &HeaderMap) -> Result<Guest, ServiceError> {
        let Some(keys) = &self.0 else { return Ok(Guest::default()) };
        let refused = |reason, message| {
            metrics::unauthenticated(reason);
            ServiceError::Unauthenticated(message)
        };
        let value = headers
            .get(AUTHORIZATION)
            .ok_or_else(|| refused("missing", "an API key is needed, as metadata `authorization: Bearer KEY`"))?;
        let key =
            bearer(value.as_bytes()).ok_or_else(|| refused("malformed", "authorization: expected `Bearer KEY`"))?;
        let pass = keys.read().unwrap_or_else(PoisonError::into_inner).pass(key);
        let pass = pass.ok_or_else(|| refused("unknown", "authorization: the API key is not known"))?;
        Guest::of(&pass)
    }
}

impl Keys {
    fn changed(&self, file: &[u8]) -> Result<Self> {
        let lines = key_file::parse(file).map_err(|problem| anyhow!(problem))?;
        let mut accounts: BTreeMap<&str, Arc<Account>> =
            self.entries.iter().map(|(_, pass)| (pass.account.name.as_str(), pass.account.clone())).collect();
        let mut entries = Vec::with_capacity(lines.len());
        for line in &lines {
            let new = || Arc::new(Account::new(line.name.clone(), line.limits));
            let account = accounts.entry(&line.name).or_insert_with(new);
            if account.limits() != line.limits {
                account.set_limits(line.limits);
            }
            let is_the_same = |(digest, pass): &&(KeyDigest, Arc<Pass>)| {
                *digest == line.digest && Arc::ptr_eq(&pass.account, account)
            };
            let pass = self.entries.iter().find(is_the_same).map(|(_, pass)| pass.clone());
            entries.push((line.digest, pass.unwrap_or_else(|| Arc::new(Pass::new(account.clone())))));
        }
        Ok(Self { entries })
    }

    /// Takes as long whichever key it is: every hash is compared, whole.
    fn pass(&self, key: &[u8]) -> Option<Arc<Pass>> {
        let digest = key_file::digest(key);
        let mut found = None;
        for (known, pass) in &self.entries {
            if bool::from(known.ct_eq(&digest)) {
                found = Some(pass);
            }
        }
        found.cloned()
    }
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = value.split_at_checked("Bearer ".len())?;
    let key = key.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"Bearer ") && !key.is_empty()).then_some(key)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::server::trust::new_key;

    fn with(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(value).unwrap())])
    }

    fn refusal(door: &Door, headers: &HeaderMap) -> String {
        match door.admit(headers) {
            Err(ServiceError::Unauthenticated(message)) => message.to_owned(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_a_key_of_the_file_opens_the_door() {
        let (key, line) = new_key("ci").unwrap();
        let door = Door::locked(line.as_bytes()).unwrap();
        for value in [format!("Bearer {key}"), format!("bearer  {key}")] {
            door.admit(&with(&value)).unwrap();
        }
        assert!(refusal(&door, &HeaderMap::new()).contains("an API key is needed"));
        for value in ["Bearer ", "Bearer", "Basic abc", &key] {
            assert!(refusal(&door, &with(value)).contains("expected `Bearer KEY`"), "{value}");
        }
        for value in ["Bearer x".to_owned(), format!("Bearer {key}x"), format!("Bearer {}", &key[1..])] {
            assert!(refusal(&door, &with(&value)).contains("not known"), "{value}");
        }
        Door::open().admit(&HeaderMap::new()).unwrap();
    }

    #[test]
    fn two_keys_of_one_holder_share_its_limits_and_a_change_keeps_the_count() {
        let ((old, old_line), (new, new_line)) = (new_key("ci").unwrap(), new_key("ci").unwrap());
        let (old, new) = (with(&format!("Bearer {old}")), with(&format!("Bearer {new}")));
        let door = Door::locked(format!("{old_line} max_calls=1\n{new_line} max_calls=1").as_bytes()).unwrap();
        let guest = door.admit(&old).unwrap();
        assert!(matches!(door.admit(&new), Err(ServiceError::Overloaded { .. })));

        door.change_keys(format!("{new_line} max_calls=1").as_bytes()).unwrap();
        refusal(&door, &old);
        assert!(matches!(door.admit(&new), Err(ServiceError::Overloaded { .. })));
        drop(guest);
        door.admit(&new).unwrap();

        door.change_keys(b"broken").unwrap_err();
        door.admit(&new).unwrap();
    }

    #[test]
    fn a_call_that_outlasts_its_key_has_nothing_more_scored() {
        let ((leaves, leaves_line), (stays, stays_line)) = (new_key("ci").unwrap(), new_key("ci").unwrap());
        let door = Door::locked(format!("{leaves_line}\n{stays_line}").as_bytes()).unwrap();
        let admit = |key: &str| door.admit(&with(&format!("Bearer {key}"))).unwrap();
        let (leaves, stays) = (admit(&leaves), admit(&stays));
        door.change_keys(b"broken").unwrap_err();
        leaves.spend(1).unwrap();
        for _ in 0..2 {
            door.change_keys(stays_line.as_bytes()).unwrap();
            assert!(matches!(leaves.spend(1), Err(ServiceError::Unauthenticated(_))));
            stays.spend(1).unwrap();
        }
    }
}
