//! Signature Version 4 as the IoT endpoints check it: in the query of a WebSocket upgrade, or in the
//! `Authorization` header of a request.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

mod canonical;
mod claim;
mod explanation;

use canonical::Reading;
pub(crate) use canonical::{parse_query, unescape};
use claim::Claim;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// The names that the two generations of Amazon's SDKs sign for.
const SERVICES: [&str; 2] = ["iotdata", "iotdevicegateway"];

/// How far a request's clock may be off, and how long a signature without an expiry holds.
const SKEW_MAX: Duration = Duration::from_secs(5 * 60);

/// The longest expiry that a query may ask for.
const EXPIRY_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// An access key of IAM that the server accepts.
#[derive(Clone)]
pub(crate) struct AccessKey {
    pub(crate) id: String,
    pub(crate) secret: String,
    /// A temporary key comes with a session token.
    pub(crate) token: Option<String>,
}

impl std::fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// A request as far as it is signed.
pub(crate) struct Signed<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    /// As it was sent, without `?`.
    pub(crate) query: &'a str,
    /// Finds a header by its lower-case name.
    pub(crate) header: &'a dyn Fn(&str) -> Option<&'a str>,
    pub(crate) body: &'a [u8],
}

/// Why a signature is refused, in the words of AWS's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SignatureError {
    #[error("the request carries no signature")]
    Missing,
    #[error("a part of the signature is missing or not in its form")]
    Malformed,
    #[error("the security token included in the request is invalid")]
    UnknownKey,
    #[error("credential should be scoped to a valid service")]
    WrongService,
    #[error("credential should be scoped to a valid region")]
    WrongRegion,
    #[error("signature expired or not yet current")]
    Expired,
    #[error("the request signature we calculated does not match the signature you provided")]
    Mismatch,
}

impl SignatureError {
    /// Whose rule it is.
    pub(crate) const fn rule(self) -> &'static str {
        match self {
            Self::Missing | Self::Malformed => "Signature Version 4: its parts",
            Self::UnknownKey => "Signature Version 4: access key and session token",
            Self::WrongService => "Signature Version 4: service of the credential scope",
            Self::WrongRegion => "Signature Version 4: region of the credential scope",
            Self::Expired => "Signature Version 4: time of signing",
            Self::Mismatch => "Signature Version 4: signature",
        }
    }
}

/// A refusal with what is wrong in particular: for the log, and without a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mistake {
    pub(crate) error: SignatureError,
    /// The identifier of the access key, when one is named.
    pub(crate) key_id: Option<String>,
    pub(crate) detail: Cow<'static, str>,
}

impl Mistake {
    fn new(error: SignatureError, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            error,
            key_id: None,
            detail: detail.into(),
        }
    }
}

fn malformed(detail: impl Into<Cow<'static, str>>) -> Mistake {
    Mistake::new(SignatureError::Malformed, detail)
}

/// Checks a request for a region; returns the identifier of the key that signed it.
///
/// # Errors
/// What is wrong with its signature.
pub(crate) fn verify<'k>(
    request: &Signed<'_>,
    keys: &'k [AccessKey],
    region: &str,
    now: SystemTime,
) -> Result<&'k str, Mistake> {
    let claim = Claim::read(request)?;
    let scope: Vec<&str> = claim.credential.split('/').collect();
    let [key_id, date, scope_region, service, "aws4_request"] = scope.as_slice() else {
        return Err(malformed(
            "its credential is not <key>/<date>/<region>/<service>/aws4_request",
        ));
    };
    let of_key = |mistake: Mistake| Mistake {
        key_id: Some((*key_id).to_owned()),
        ..mistake
    };
    claim
        .check_scope(date, (scope_region, region), service)
        .map_err(of_key)?;
    claim.check_time(now).map_err(of_key)?;
    let key = find_key(keys, key_id, claim.token.as_deref()).map_err(of_key)?;
    let scope = [*date, *scope_region, *service];
    // Some clients sign the host with the port they connect to, most without.
    for reading in [Reading::default(), Reading::with_port()] {
        if claim.is_signed_by(key, &scope, request, &reading)? {
            return Ok(&key.id);
        }
    }
    Err(of_key(claim.mismatch(key, &scope, request)?))
}

fn find_key<'k>(
    keys: &'k [AccessKey],
    key_id: &str,
    token: Option<&str>,
) -> Result<&'k AccessKey, Mistake> {
    let unknown = |detail: &'static str| Mistake::new(SignatureError::UnknownKey, detail);
    let key = keys
        .iter()
        .find(|key| key.id == key_id)
        .ok_or_else(|| unknown("the emulator has no access key of this identifier"))?;
    match (&key.token, token) {
        (Some(_), None) => Err(unknown(
            "the access key is temporary, and the request has no session token",
        )),
        (None, Some(_)) => Err(unknown(
            "the access key is not temporary, and the request has a session token",
        )),
        (Some(known), Some(given)) if known != given => {
            Err(unknown("the session token is not the access key's"))
        }
        _ => Ok(key),
    }
}

#[cfg(test)]
mod tests;
