//! User name and password of a link.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use secrecy::{ExposeSecret as _, SecretSlice};

/// User name and password, asked at every connect attempt. Never printed.
#[derive(Clone, Default)]
pub struct Credentials(Source);

#[derive(Clone, Default)]
enum Source {
    #[default]
    None,
    Fixed {
        username: ByteString,
        password: Option<Arc<SecretSlice<u8>>>,
    },
    Provider(Arc<dyn Fn() -> Credentials + Send + Sync>),
}

impl Credentials {
    /// A user name alone.
    #[must_use]
    pub fn username(username: impl Into<ByteString>) -> Self {
        Self(Source::Fixed {
            username: username.into(),
            password: None,
        })
    }

    /// A user name and a password.
    #[must_use]
    pub fn password(username: impl Into<ByteString>, password: impl Into<Vec<u8>>) -> Self {
        let password = Arc::new(SecretSlice::from(password.into()));
        Self(Source::Fixed {
            username: username.into(),
            password: Some(password),
        })
    }

    /// Asks `provider` at every connect attempt, for tokens that expire. It runs on the link's thread
    /// and must not block.
    #[must_use]
    pub fn provider(provider: impl Fn() -> Self + Send + Sync + 'static) -> Self {
        Self(Source::Provider(Arc::new(provider)))
    }

    pub(crate) fn resolve(&self) -> (Option<ByteString>, Option<Bytes>) {
        match &self.0 {
            Source::None => (None, None),
            Source::Fixed { username, password } => {
                let password = password
                    .as_ref()
                    .map(|secret| Bytes::copy_from_slice(secret.expose_secret()));
                (Some(username.clone()), password)
            }
            Source::Provider(provider) => match provider().0 {
                // One level is enough: a provider that gives a provider gives nothing.
                Source::Provider(_) => (None, None),
                fixed => Self(fixed).resolve(),
            },
        }
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match &self.0 {
            Source::None => "Credentials(none)",
            Source::Fixed { .. } => "Credentials(redacted)",
            Source::Provider(_) => "Credentials(provider)",
        })
    }
}
