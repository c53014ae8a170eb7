//! Which certificate is whose, for whoever reads the log.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use crate::remarks::Quoted;

/// Digits of a certificate's identifier that tell it apart in a log.
const SHORT_ID: usize = 12;

/// The names that certificates of this emulator were made for.
#[derive(Debug, Default)]
pub(crate) struct CertificateNames {
    by_id: RwLock<BTreeMap<String, String>>,
}

impl CertificateNames {
    pub(crate) fn add(&self, certificate_id: &str, name: &str) {
        let mut by_id = self.by_id.write().unwrap_or_else(PoisonError::into_inner);
        by_id.insert(certificate_id.to_owned(), name.to_owned());
    }

    /// Identifiers and names.
    pub(crate) fn all(&self) -> Vec<(String, String)> {
        let by_id = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
        by_id
            .iter()
            .map(|(id, name)| (id.clone(), name.clone()))
            .collect()
    }

    /// A principal as a line of the log names it: most are certificates.
    pub(crate) fn describe<'a>(&self, principal: &'a str) -> Cow<'a, str> {
        let is_digest =
            principal.len() == 64 && principal.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_digest {
            return format!("principal {}", Quoted(principal)).into();
        }
        let by_id = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
        let short = &principal[..SHORT_ID];
        match by_id.get(principal) {
            Some(name) => format!("the certificate {short}… of {}", Quoted(name)).into(),
            None => format!("the certificate {short}…").into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_named_by_whom_it_was_made_for() {
        let names = CertificateNames::default();
        let id = "0123456789abcdef".repeat(4);
        assert_eq!(names.describe(&id), "the certificate 0123456789ab…");
        names.add(&id, "pump");
        assert_eq!(
            names.describe(&id),
            "the certificate 0123456789ab… of \"pump\""
        );
        assert_eq!(names.describe("gate"), "principal \"gate\"");
    }
}
