//! What is wrong with a signature that is none of the key's: for the log.

use super::canonical::Reading;
use super::claim::Claim;
use super::{AccessKey, Mistake, SignatureError, Signed};

impl Reading {
    /// Those that clients are known to have and that are wrong.
    fn mistaken() -> [(Self, &'static str); 4] {
        let right = Self::default();
        [
            (
                Self {
                    signs_token: true,
                    ..right
                },
                "the session token was signed with the query, and it is to be added after signing",
            ),
            (
                Self {
                    leaves_body_out: true,
                    ..right
                },
                "UNSIGNED-PAYLOAD was signed in the place of the hash of the empty body",
            ),
            (
                Self {
                    path: Some("/"),
                    ..right
                },
                "the path / was signed, and /mqtt is asked for",
            ),
            (
                Self {
                    path: Some(""),
                    ..right
                },
                "an empty path was signed, and /mqtt is asked for",
            ),
        ]
    }
}

impl Claim {
    /// What is wrong with a signature that is none of the key's.
    pub(super) fn mismatch(
        &self,
        key: &AccessKey,
        scope: &[&str; 3],
        request: &Signed<'_>,
    ) -> Result<Mistake, Mistake> {
        for (reading, detail) in Reading::mistaken() {
            if self.is_signed_by(key, scope, request, &reading)? {
                return Ok(Mistake::new(SignatureError::Mismatch, detail));
            }
        }
        let canonical = self.canonical_request(request, &Reading::default())?;
        let shown = canonical.shown();
        let detail = format!(
            "another secret key signed it, or something else than this canonical request: {shown:?}"
        );
        Ok(Mistake::new(SignatureError::Mismatch, detail))
    }
}
