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
    Fixed(Arc<Fixed>),
    Provider(Arc<dyn Fn() -> Credentials + Send + Sync>),
}

struct Fixed {
    username: ByteString,
    password: Option<SecretSlice<u8>>,
}

impl Credentials {
    /// A user name alone.
    #[must_use]
    pub fn username(username: impl Into<ByteString>) -> Self {
        Self(Source::Fixed(Arc::new(Fixed {
            username: username.into(),
            password: None,
        })))
    }

    /// A user name and a password.
    #[must_use]
    pub fn password(username: impl Into<ByteString>, password: impl Into<Vec<u8>>) -> Self {
        Self(Source::Fixed(Arc::new(Fixed {
            username: username.into(),
            password: Some(SecretSlice::from(password.into())),
        })))
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
            Source::Fixed(fixed) => {
                let password = fixed
                    .password
                    .as_ref()
                    .map(|secret| Bytes::copy_from_slice(secret.expose_secret()));
                (Some(fixed.username.clone()), password)
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
            Source::Fixed(_) => "Credentials(redacted)",
            Source::Provider(_) => "Credentials(provider)",
        })
    }
}
